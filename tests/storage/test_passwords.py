"""The password of a PostgreSQL database, apart from its address, and from a file."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from psycopg.conninfo import conninfo_to_dict

from attractor_server.cli.main import main
from attractor_server.config import load_settings
from attractor_server.storage.backends.postgres_password import join_password, split_password

PASSWORD = "Gqx9%25 &?@:/Zt7k"


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://user:Gqx9%2525%20%26%3F%40%3A%2FZt7k@[::1]:5433/db?options=-c%20search_path%3Done",
        "postgres://user@one,two:5433/db?password=Gqx9%2525%20%26%3F%40%3A%2FZt7k",
    ],
)
def test_an_address_is_the_same_without_its_password_and_with_it_again(uri: str) -> None:
    bare, password = split_password(uri)
    assert password == PASSWORD
    assert "Gqx9" not in bare
    assert "Zt7k" not in bare
    assert conninfo_to_dict(join_password(bare, password)) == conninfo_to_dict(uri)


@pytest.mark.parametrize("uri", ["postgresql://user@host/db", "sqlite:/data", "", "postgresql://user:a%zzb@host/db"])
def test_an_address_without_a_password_that_can_be_read_stays_as_it_is(uri: str) -> None:
    assert split_password(uri) == (uri, "")


def test_the_password_in_a_file_goes_with_the_address(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    given = {"backend_store_uri": "postgresql://user@host/db", "backend_password_file": str(tmp_path / "password")}
    settings = load_settings(given)
    assert conninfo_to_dict(settings.store_uri)["password"] == PASSWORD
    assert PASSWORD not in repr(settings)


def test_a_file_of_the_password_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    words = ["verify", "--backend-store-uri", "postgresql://127.0.0.1:1/db"]
    result = CliRunner().invoke(main, [*words, "--backend-password-file", str(tmp_path / "missing")])
    assert result.exit_code == 2
    assert "backend_password_file: saw" in result.output
    (tmp_path / "bytes").write_bytes(b"\xff\xfeGqx9")
    result = CliRunner().invoke(main, [*words, "--backend-password-file", str(tmp_path / "bytes")])
    assert "backend_password_file: saw" in result.output
    assert "Gqx9" not in result.output
