"""Commands that speak TLS to a server, and what `attractor doctor` tells of certificates."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from anyio import to_thread
from click.testing import CliRunner, Result
from tests.support.certificates import NAME, Authority, Pair, files_of
from tests.support.shards import serving

from attractor_server.app import RunningShard
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture
async def secure(spec: ShardSpec, authority: Authority, pair: Pair) -> AsyncIterator[RunningShard]:
    """A shard whose clients need a certificate."""
    async with serving(replace(spec, tls=files_of(pair, authority.ca, client_ca=authority.ca))) as (shard,):
        yield shard


async def run(*arguments: object, environment: dict[str, str] | None = None) -> Result:
    return await to_thread.run_sync(partial(CliRunner().invoke, main, list(map(str, arguments)), env=environment))


async def test_commands_take_their_files_from_flags_or_from_variables(
    secure: RunningShard, authority: Authority, pair: Pair
) -> None:
    files = {"ca": authority.ca, "cert": pair.certificate, "key": pair.key, "server-name": NAME}
    flags = [word for name, value in files.items() for word in (f"--tls-{name}", value)]
    variables = {f"ATTRACTOR_TLS_{name.upper().replace('-', '_')}": str(value) for name, value in files.items()}
    at = ("--server", secure.info.address)
    for command in (("memory", "create", "a", "--model", "tiny"), ("memory", "ls")):
        assert (await run(*command, *at, *flags)).exit_code == 0
        assert (await run(*command, *at, environment=variables)).exit_code == 0
    refused = await run("scale", "2", *at, *flags)
    assert "memories of this server are not kept" in refused.stderr


async def test_why_a_command_does_not_come_to_speak_is_told_in_one_line(
    secure: RunningShard, authority: Authority
) -> None:
    at = ("--server", secure.info.address)
    for flags, words in (
        ((), "speaks TLS, and this client does not"),
        (("--tls",), "was issued by none that this client believes"),
        (("--tls-ca", authority.ca), "is not for '127.0.0.1'"),
        (("--tls-ca", authority.ca, "--tls-server-name", NAME), "asks for a certificate of the client"),
        (("--tls-ca", authority.ca.with_name("none")), "tls.ca: saw"),
    ):
        for command in (("memory", "ls"), ("scale", "2")):
            result = await run(*command, *at, *flags)
            assert result.exit_code == 2
            assert result.stderr.startswith("attractor: ")
            assert words in result.stderr
            assert result.stderr.count("\n") == 1


async def test_doctor_looks_at_the_files_of_a_server_and_speaks_as_its_shards_do(
    secure: RunningShard, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    old = await to_thread.run_sync(partial(authority.issue, "old", expired=True))
    at = ("--server", secure.info.address, "--data-dir", tmp_path / "data")

    def lines(result: Result) -> dict[str, str]:
        return {line.split()[1]: line for line in result.output.splitlines() if len(line.split()) > 1}

    flags = ("--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", authority.ca)
    told = lines(await run("doctor", *at, *flags))
    assert told["server"].startswith("ok"), told["server"]
    assert told["TLS"].startswith("ok")
    told = lines(await run("doctor", *at, "--tls-cert", old.certificate, "--tls-key", old.key))
    assert "certificate has expired" in told["TLS"]
    assert told["TLS"].startswith("wrong")
    told = lines(await run("doctor", *at, "--tls-cert", old.certificate, "--tls-key", pair.key))
    assert "which is not the key of" in told["TLS"]
    told = lines(await run("doctor", *at))
    assert "speaks TLS, and this client does not" in told["server"]
