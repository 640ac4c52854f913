"""`helm test`: the pod that the chart renders for it, against a server with TLS and identities."""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from anyio import to_thread
from tests.support.certificates import Authority, Pair, files_of
from tests.support.charts import find, lay_out, plain_environment, rendered_of
from tests.support.helm_tools import HELM
from tests.support.identities import write_identities
from tests.support.shards import models, serving, spec

from attractor_server.shard.spec import ShardSpec

__all__ = ["models", "spec"]

pytestmark = pytest.mark.skipif(not HELM.exists(), reason="there is no Helm in build/tools: make tools fetches it")

Secrets: TypeAlias = Mapping[str, Mapping[str, bytes]]
NAME = "memories.example.com"
SECURED = {
    "tls": {"existingSecret": "certificate", "serverName": NAME, "clientCertificates": True},
    "identities.existingSecret": "who",
}


def prepared(
    folder: Path, address: str, secrets: Secrets, values: Mapping[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """The command of the pod and its variables, with files where it looks for them."""
    given = find(rendered_of(values), "Pod")["spec"]
    (container,) = given["containers"]
    variables = dict(plain_environment(container))
    for volume in (one for one in given["volumes"] if "secret" in one):
        (mount,) = (one for one in container["volumeMounts"] if one["name"] == volume["name"])
        place = folder / volume["name"]
        lay_out(volume, secrets, place)
        variables = {name: value.replace(mount["mountPath"], str(place)) for name, value in variables.items()}
    return [sys.executable, *container["command"][1:], container["args"][0], address], {**os.environ, **variables}


async def run(*given: Any) -> str:  # noqa: ANN401 - as above
    """What the pod says."""
    command, variables = await to_thread.run_sync(prepared, *given)
    ended = await anyio.run_process(command, env=variables, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server", name=NAME)


@pytest.fixture
def certificate(authority: Authority, pair: Pair) -> Mapping[str, bytes]:
    """The Secret of the certificate."""
    files = {"ca.crt": authority.ca, "tls.crt": pair.certificate, "tls.key": pair.key}
    return {name: path.read_bytes() for name, path in files.items()}


async def test_it_stores_recalls_and_deletes_by_its_token_and_its_certificate(
    spec: ShardSpec, tmp_path: Path, authority: Authority, pair: Pair, certificate: Mapping[str, bytes]
) -> None:
    who = tmp_path / "identities.toml"
    token = (await write_identities(who, {"test": ["helm-test/*:write"]}))["test"]
    secrets = {"certificate": certificate, "mine": {"token": f"{token}\n".encode()}}
    secured = replace(spec, tls=files_of(pair, authority.ca, client_ca=authority.ca), identities=who)
    async with serving(secured) as (shard,):
        said = await run(tmp_path / "with", shard.info.address, secrets, {**SECURED, "tests.existingSecret": "mine"})
        assert said.startswith("stored, recalled and deleted helm-test/")
        said = await run(tmp_path / "without", shard.info.address, secrets, SECURED)
        assert said.startswith("refused, as a caller without a token should be")
