"""`attractor token new`, and commands that use a token."""

import stat
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result
from tests.support.shards import serving

from attractor_server.cli.main import main
from attractor_server.identity.identity_file import read_identities
from attractor_server.identity.tokens import hash_token
from attractor_server.shard.spec import ShardSpec


def invoke(*arguments: str, **environment: str | None) -> Result:
    return CliRunner().invoke(main, arguments, env={"ATTRACTOR_IDENTITIES": None, **environment})


def test_a_new_token_is_printed_once_and_the_file_has_its_digest_alone(tmp_path: Path) -> None:
    file = tmp_path / "identities.toml"
    first = invoke("token", "new", "ada", "--grant", "users/ada/*:write", "--identities", str(file))
    second = invoke("token", "new", "ada", "--grant", "*:read", "--expires-days", "1", ATTRACTOR_IDENTITIES=str(file))
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    tokens = [result.stdout.strip() for result in (first, second)]
    assert not any(token in file.read_text() or token in first.stderr + second.stderr for token in tokens)
    known = read_identities(file).tokens
    assert [known[hash_token(token)].name for token in tokens] == ["ada", "ada"]
    assert known[hash_token(tokens[0])].grants.texts == ["users/ada/*:write"]
    assert known[hash_token(tokens[0])].expires_s is None
    assert known[hash_token(tokens[1])].expires_s is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_a_file_the_entry_is_printed_beside_the_token() -> None:
    result = invoke("token", "new", 'a"da', "--grant", "*:read")
    assert hash_token(result.stdout.strip()).hex() in result.stderr
    assert 'name = "a\\"da"' in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ada", "--grant", "ada"), "grant[0]: saw 'ada'; expected PATTERN:ROLE"),
        (("", "--grant", "*:read"), "name: saw ''; expected 1 to 256 printable characters"),
    ],
)
def test_what_cannot_be_meant_changes_nothing(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    file = tmp_path / "identities.toml"
    file.write_text("# nobody yet\n")
    file.chmod(0o600)
    result = invoke("token", "new", *arguments, "--identities", str(file))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not result.stdout
    assert file.read_text() == "# nobody yet\n"


async def test_commands_take_the_token_from_the_environment_or_a_file(spec: ShardSpec, tmp_path: Path) -> None:
    file, held = tmp_path / "identities.toml", tmp_path / "token"
    made = await anyio.to_thread.run_sync(
        partial(invoke, "token", "new", "ada", "--grant", "users/ada/*:write", "--identities", str(file))
    )
    token = made.stdout.strip()
    await anyio.Path(held).write_text(token + "\n")
    async with serving(replace(spec, identities=file)) as (shard,):
        at = ("--server", shard.info.address)

        async def run(*arguments: str, **environment: str) -> Result:
            return await anyio.to_thread.run_sync(partial(invoke, "memory", *arguments, *at, **environment))

        refused = await run("ls")
        assert (refused.exit_code, "Bearer" in refused.stderr) == (2, True)
        assert (await run("create", "users/ada/a", "--model", "tiny", ATTRACTOR_TOKEN=token)).exit_code == 0
        listed = await run("ls", ATTRACTOR_TOKEN_FILE=str(held))
        assert "users/ada/a" in listed.output
        denied = await run("rm", "users/bob/a", ATTRACTOR_TOKEN=token)
        assert (denied.exit_code, token in denied.output) == (2, False)
        assert "may write" in denied.output
        scaled = await anyio.to_thread.run_sync(partial(invoke, "scale", "2", *at, ATTRACTOR_TOKEN=token))
        assert "needs the grant *:admin" in scaled.stderr
        missing = await run("ls", ATTRACTOR_TOKEN_FILE=str(tmp_path / "none"))
        assert missing.exit_code == 2
