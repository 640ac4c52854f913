"""A Ray of our own: its token, and what is said where it cannot start."""

import os
from pathlib import Path

import pytest
from tests.support.server_process import drained, remove_home, server_process

from attractor_server.cluster.ray_node import make_token


def test_what_the_environment_says_of_tokens_goes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/run/secrets/token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    make_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


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
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_home(monkeypatch)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with (
        pytest.raises(AssertionError, match=r"ended: \['attractor: Ray cannot start here: [^']*\\n'\]"),
        server_process("--models", str(models), "--port", "0"),
    ):
        pass
