"""Tokens of a client: sent with every call and stream, asked for again, and never to where others could read them."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from tests.support.identities import ROOT, put_identities, write_identities
from tests.support.shards import HERE, THERE, models, on_disk, serving, spec

import attractor
from attractor._token import is_local
from attractor_server.shard.spec import ShardSpec

__all__ = ["models", "on_disk", "spec"]

ONE = np.random.default_rng(1).random((4, 4), dtype=np.float32)
WHO = {**ROOT, "ada": ["users/ada/*:write", "shared/*:read"]}


@pytest.fixture
async def guarded(on_disk: ShardSpec, tmp_path: Path) -> AsyncIterator[tuple[str, Path, dict[str, str]]]:
    file = tmp_path / "identities.toml"
    tokens = await write_identities(file, WHO)
    async with serving(replace(on_disk, identities=file)) as (shard,):
        yield shard.info.address, file, tokens


async def test_a_client_with_a_token_does_what_it_is_granted(
    guarded: tuple[str, Path, dict[str, str]], tmp_path: Path
) -> None:
    address, _, tokens = guarded
    async with attractor.connect(address, token=tokens["root"], timeout_s=20) as root:
        await root.create_memory("shared/notes", model="tiny")
    async with attractor.connect(address, token=tokens["ada"], timeout_s=20) as client:
        memory = await client.create_memory("users/ada/a", model="tiny")
        assert (await memory.store(ONE)).total == 1
        assert np.isfinite((await memory.query(ONE)).pattern).all()
        await memory.snapshot("one")
        await memory.export(tmp_path / "a")
        assert (await client.import_memory(tmp_path / "a", name="users/ada/b")).name == "users/ada/b"
        assert [one.name async for one in client.memories()] == ["shared/notes", "users/ada/a", "users/ada/b"]
        shared = await client.get_memory("shared/notes")
        await shared.query(ONE)
        with pytest.raises(attractor.NotAllowed, match="may write"):
            await shared.store(ONE)
        with pytest.raises(attractor.NotAllowed, match="may read"):
            await client.memory("users/bob/a").query(ONE)
        with pytest.raises(attractor.NotAllowed):
            await client.create_memory("users/bob/a", model="tiny")


async def test_without_a_valid_token_a_client_is_told_so_at_once(guarded: tuple[str, Path, dict[str, str]]) -> None:
    address, _, _ = guarded
    for token in (None, "att_unknown", lambda: "att_unknown"):
        with pytest.raises(attractor.Unauthenticated) as caught, anyio.fail_after(10):
            async with attractor.connect(address, token=token, timeout_s=60):
                pass
        assert "att_" not in str(caught.value)


async def test_a_function_is_asked_again_when_its_token_is_refused_and_nothing_is_lost(
    guarded: tuple[str, Path, dict[str, str]],
) -> None:
    address, file, tokens = guarded
    given: list[str] = []
    current = tokens["ada"]

    async def ask() -> str:
        given.append(current)
        return current

    async with attractor.connect(address, token=ask, timeout_s=30) as client:
        memory = await client.create_memory("users/ada/a", model="tiny")
        assert (await memory.store(ONE)).total == 1
        asked = len(given)
        newer = await write_identities(file, WHO)
        current = newer["ada"]
        totals = []
        with anyio.fail_after(20):
            while len(given) == asked:
                totals.append((await memory.store(ONE)).total)
        totals += [(await memory.store(ONE)).total for _ in range(3)]
        assert totals == list(range(2, len(totals) + 2))
        assert (await memory.info()).patterns == 1 + len(totals)
    assert set(given) == {tokens["ada"], newer["ada"]}
    async with attractor.connect(address, token=lambda: current, timeout_s=20) as client:
        assert (await client.memory("users/ada/a").info()).patterns == 1 + len(totals)


async def test_calls_fail_when_the_identity_is_gone_and_come_back_with_it(
    guarded: tuple[str, Path, dict[str, str]],
) -> None:
    address, file, tokens = guarded
    async with attractor.connect(address, token=tokens["ada"], timeout_s=60) as client:
        memory = await client.create_memory("users/ada/a", model="tiny")
        await put_identities(file, ROOT, tokens)
        with anyio.fail_after(20):
            with pytest.raises(attractor.Unauthenticated):
                while True:
                    await memory.query(ONE)
            with pytest.raises(attractor.Unauthenticated):
                await memory.info()
        await put_identities(file, WHO, tokens)
        with anyio.fail_after(20):
            while True:
                try:
                    await memory.store(ONE)
                    break
                except attractor.Unauthenticated:
                    await anyio.sleep(0.1)


async def test_a_token_is_sent_to_the_owners_that_shards_name(spec: ShardSpec, tmp_path: Path) -> None:
    file = tmp_path / "identities.toml"
    tokens = await write_identities(file, {"ada": ["*:write"]})
    async with (
        serving(replace(spec, identities=file), 2) as (one, _),
        attractor.connect(one.info.address, token=tokens["ada"], timeout_s=20) as client,
    ):
        memories = [await client.create_memory(name, model="tiny") for name in (HERE, THERE)]
        for memory in memories:
            for total in range(1, 5):
                assert (await memory.store(ONE)).total == total
        await put_identities(file, {"ada": ["other/*:write"]}, tokens)
        with pytest.raises(attractor.NotAllowed), anyio.fail_after(20):
            while True:
                await memories[1].store(ONE)


async def test_a_failing_function_is_told_without_what_it_says() -> None:
    def fail() -> str:
        raise ValueError("secret of the token's issuer")

    with pytest.raises(attractor.Unauthenticated, match="ValueError") as caught, anyio.fail_after(10):
        async with attractor.connect("127.0.0.1:1", token=fail):
            pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "two words", "ä", 7])
def test_what_is_no_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(attractor.InvalidRequest, match=r"^token: saw .*; expected") as caught:
        attractor.connect("localhost", token=token)
    assert "two words" not in str(caught.value)


def test_a_token_goes_to_another_machine_in_plain_text_only_where_that_is_asked_for() -> None:
    with pytest.raises(attractor.InvalidRequest, match="plaintext_token"):
        attractor.connect("memories.example.org", token="att_x")
    client = attractor.connect("memories.example.org", token="att_x", plaintext_token=True)
    assert "att_x" not in json.dumps([repr(client), repr(client._settings)])
    attractor.connect("memories.example.org")


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("localhost:7171", True),
        ("127.0.0.1:7171", True),
        ("127.8.8.8:1", True),
        ("[::1]:7171", True),
        ("unix:/tmp/socket", True),
        ("ipv4:127.0.0.1:7171", True),
        ("dns:localhost:7171", True),
        ("dns:///localhost:7171", True),
        ("localhost.example.org:7171", False),
        ("127.0.0.1.example.org:7171", False),
        ("10.0.0.1:7171", False),
        ("dns:example.org:7171", False),
        ("ipv6:[2001:db8::1]:7171", False),
    ],
)
def test_local_addresses_are_those_that_do_not_leave_the_machine(address: str, local: bool) -> None:
    assert is_local(address) is local
