"""The token of a Ray of our own."""

from pathlib import Path

import pytest

from attractor_server.cluster.ray_node import make_token


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


def test_a_token_is_made_that_only_its_user_can_read(token: Path) -> None:
    make_token()
    assert len(token.read_text()) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


def test_a_token_that_is_there_stays_and_is_closed_to_others(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("x" * 64)
    token.chmod(0o644)
    make_token()
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("x" * 64, 0o600)


def test_what_the_environment_says_goes_before(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "y" * 64)
    make_token()
    assert not token.exists()
