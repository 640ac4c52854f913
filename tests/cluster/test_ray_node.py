"""A Ray of our own: its token, and what is said where it cannot start."""

import os
from pathlib import Path

import pytest
from tests.support.server_process import drained, server_process

from attractor_server.cluster.ray_node import TOKENS, make_token


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that cannot be written to, nor made; what is compiled for all servers is still found."""
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", "/proc/nobody")
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)


def test_what_the_environment_says_of_tokens_goes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/run/secrets/token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    make_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_server_needs_no_home_folder(no_home: None, models: Path) -> None:
    with server_process("--models", str(models), "--port", "0") as server:
        assert len(server.shard_processes()) == 1
        assert not drained(server.errors)


def test_why_ray_cannot_start_is_told_in_one_line_and_ends_the_server(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nobody")
    words = ("--models", str(models), "--port", "0", "--data-dir", str(tmp_path))
    with server_process(*words, early=True) as server:
        assert server.process.wait(60) == 2
        (line,) = drained(server.errors)
        assert line.startswith("attractor: RAY_TMPDIR: saw '/proc/nobody'")


def test_a_token_that_cannot_be_read_is_told_in_one_line(
    no_home: None, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with (
        pytest.raises(AssertionError, match=r"ended: \['attractor: Ray cannot start here: [^']*\\n'\]"),
        server_process("--models", str(models), "--port", "0"),
    ):
        pass
