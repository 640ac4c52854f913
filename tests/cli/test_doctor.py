"""`attractor doctor` says what is wrong with an installation."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support.postgresql import PostgresServer

from attractor_server.cli.main import main
from attractor_server.storage.backends import sqlite_backend


def examined(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def line(result: Result, what: str) -> str:
    return next(line for line in result.output.splitlines() if what in line)


def test_where_nothing_is_wrong_that_is_said_with_what_was_looked_at(tmp_path: Path) -> None:
    result = examined("--data-dir", str(tmp_path / "new"), "--port", "0")
    assert result.exit_code == 0, result.output
    assert "nothing wrong" in result.output
    for what in ("Python", "torch", "ray", "apsw", "SQLite", "clock", "open files", "models", "port", "data folder"):
        assert line(result, what).startswith(("ok", "warning")), line(result, what)
    assert not (tmp_path / "new").exists()


def test_each_thing_that_is_wrong_has_a_line_and_the_exit_status_is_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "broken.safetensors").write_bytes(b"not a model")
    result = examined(
        *("--data-dir", str(tmp_path / "file" / "data"), "--models", str(tmp_path), "--port", "0"),
        *("--server", "127.0.0.1:1"),
    )
    assert result.exit_code == 1
    assert line(result, "data folder").startswith("wrong")
    assert "broken.safetensors cannot be read" in line(result, "models ")
    assert line(result, "server ").startswith("wrong")
    assert "3 wrong" in result.output


def test_a_port_that_is_taken_and_a_folder_on_a_network_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_backend, "network_file_system", lambda _: "nfs4")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = examined("--data-dir", str(tmp_path), "--port", str(taken.getsockname()[1]))
    assert "cannot be listened on" in line(result, "port ")
    assert "is on nfs4: name a local disk" in line(result, "file system")


def test_a_free_port_of_an_ipv6_address_is_found_free(tmp_path: Path) -> None:
    result = examined("--data-dir", str(tmp_path), "--port", "0", "--host", "::1")
    assert "[::1]:0 is free" in line(result, "port ")


def test_a_database_that_answers_is_well_and_one_that_does_not_is_wrong(postgres: PostgresServer) -> None:
    result = examined("--backend-store-uri", postgres.store(), "--port", "0")
    assert line(result, "PostgreSQL").startswith("ok"), result.output
    result = examined("--backend-store-uri", "postgresql://127.0.0.1:1/none", "--port", "0")
    assert line(result, "PostgreSQL").startswith("wrong")
    assert result.exit_code == 1
