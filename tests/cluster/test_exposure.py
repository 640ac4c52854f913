"""Binds that other machines reach are refused, unless they are secure or meant."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from attractor_server.cli.main import main
from attractor_server.cluster.exposure import check_exposure
from attractor_server.config import load_settings
from attractor_server.errors import SettingsError

OPEN = [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "memories.example.org"}, {"ray_address": "auto"}]
CLOSED = [{}, {"host": "localhost"}, {"host": "127.0.0.2"}, {"host": "::1"}, {"host": "[::1]"}]


@pytest.mark.parametrize("flags", OPEN)
def test_a_bind_that_others_reach_is_refused_unless_it_is_meant(flags: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^host: saw .* without TLS and identities; expected .*--insecure"):
        check_exposure(load_settings(flags))
    with pytest.raises(SettingsError, match=r"without TLS; expected --tls-cert"):
        check_exposure(load_settings({**flags, "identities": str(tmp_path)}))
    said = check_exposure(load_settings({**flags, "insecure": "yes"}))
    assert "whoever reaches the port reads, changes and deletes all memories" in said
    assert "whoever reaches" not in check_exposure(load_settings({**flags, "insecure": "yes", "identities": "x"}))


@pytest.mark.parametrize("flags", CLOSED)
def test_a_bind_of_this_machine_alone_needs_nothing(flags: dict[str, str]) -> None:
    assert check_exposure(load_settings(flags)) == ""


def test_the_command_ends_at_once_with_one_line() -> None:
    result = CliRunner().invoke(main, ["serve", "--host", "0.0.0.0", "--durable", "no"])
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("attractor: host: saw 0.0.0.0")


def test_flags_that_are_yes_or_no_may_stand_alone() -> None:
    result = CliRunner().invoke(main, ["serve", "--insecure", "--host", "0.0.0.0", "--shards", "-1"])
    assert "shards: saw '-1'" in result.stderr
    assert "insecure" not in result.stderr
