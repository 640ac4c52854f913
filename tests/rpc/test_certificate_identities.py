"""Names in certificates of clients as identities, also where a call is passed on to another shard."""

from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from tests.support.certificates import Authority, files_of, tls_of
from tests.support.identities import put_text, write_identities
from tests.support.shards import HERE, THERE, serving

import attractor
from attractor_server.shard.spec import ShardSpec

ONE = np.random.default_rng(1).random((4, 4), dtype=np.float32)


async def test_a_client_is_who_its_certificate_says(spec: ShardSpec, tmp_path: Path) -> None:
    def issue() -> tuple[Authority, list[attractor.TLS], ShardSpec]:
        authority = Authority(tmp_path / "authority")
        pairs = [authority.issue(name, name=f"{name}.test") for name in ("ada", "bob")]
        tls = files_of(authority.issue("server"), authority.ca, client_ca=authority.ca)
        return authority, [tls_of(authority.ca, pair) for pair in pairs], replace(spec, tls=tls)

    _, (ada, bob), secure = await anyio.to_thread.run_sync(issue)
    file = tmp_path / "identities.toml"
    known = f'[[certificate]]\nname = "ada.test"\ngrants = ["{HERE}:write", "{THERE}:write"]\n'
    tokens = await write_identities(file, {"root": ["*:admin"]}, more=known)
    async with serving(replace(secure, identities=file), 2) as (shard, _):
        address = shard.info.address
        for direct in (True, False):  # False: calls for the other shard's memory are passed on
            async with attractor.connect(address, tls=ada, direct=direct, timeout_s=30) as client:
                for name in (HERE, THERE):
                    memory = await client.create_memory(name, model="tiny")
                    await memory.store(ONE)
                    await memory.query(ONE)
                with pytest.raises(attractor.NotAllowed):
                    await client.create_memory("other", model="tiny")
        with pytest.raises(attractor.Unauthenticated, match="certificate of nobody"):
            async with attractor.connect(address, tls=bob):
                pass
        async with attractor.connect(address, tls=bob, token=tokens["root"], timeout_s=30) as client:
            assert [one.name async for one in client.memories()] == sorted([HERE, THERE])
            async with attractor.connect(address, tls=ada, timeout_s=30) as other:
                memory = await other.get_memory(HERE)
                await put_text(file, known.replace("ada.test", "eve.test"))
                with pytest.raises(attractor.Unauthenticated), anyio.fail_after(30):
                    while True:
                        await memory.query(ONE)


def test_a_token_goes_to_another_machine_with_tls() -> None:
    with pytest.raises(attractor.InvalidRequest, match="plaintext_token"):
        attractor.connect("memories.example.org", token="att_x")
    assert "example.org" in repr(attractor.connect("memories.example.org", token="att_x", tls=True))
