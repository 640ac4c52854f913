"""Ids and payloads of patterns, and the kept pattern that a query's answer is nearest to."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from grpc import aio
from numpy.testing import assert_allclose, assert_array_equal
from tests.support import raw
from tests.support.raw import tensor
from tests.support.shards import connected, serving
from tests.support.tiny_models import images

import attractor
from attractor_proto.v1 import memories_pb2, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.shard.spec import ShardSpec

PAGE = 4
PAYLOADS = [{"n": [1, 2.5, None]}, b"\x00\xff", "text", None, 0, False]


@pytest.fixture
async def client(durable: ShardSpec) -> AsyncIterator[attractor.AsyncClient]:
    async with connected(durable) as client:
        yield client


async def test_a_match_is_the_nearest_kept_pattern_with_its_id_and_payload(client: attractor.AsyncClient) -> None:
    given, ids = images(len(PAYLOADS)), [f"image {n}" for n in range(len(PAYLOADS))]
    memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)
    await memory.store(given[:4], ids=ids[:4], payloads=PAYLOADS[:4])
    await memory.store(given[4], ids=ids[4], payloads=PAYLOADS[4])
    await memory.store(given[5], ids=ids[5], payloads=PAYLOADS[5])
    recall = await memory.query(given, match=True)
    match = recall.match
    assert match is not None
    distances = np.linalg.norm((recall.pattern[:, None] - given[None]).reshape(6, 6, -1), axis=-1)
    nearest = distances.argmin(1)
    assert match.id == [ids[n] for n in nearest]
    assert match.payload == [PAYLOADS[n] for n in nearest]
    assert_array_equal(match.pattern, given[nearest])
    assert_allclose(match.distance, distances.min(1), rtol=1e-4)
    one = (await memory.query(given[1], match=True)).match
    assert one is not None
    assert (one.id, one.payload, one.distance.shape, one.pattern.shape) == (match.id[1], match.payload[1], (), (4, 4))
    assert (await memory.query(given)).match is None


@pytest.mark.parametrize("payload", [b"", None, ""])
async def test_no_bytes_are_kept_apart_from_no_payload_through_restarts_and_files(
    durable: ShardSpec, tmp_path: Path, payload: bytes | str | None
) -> None:
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="tiny")
        await memory.store(images(1), payloads=[payload])
        await memory.export(tmp_path / "file")
    async with connected(durable) as client:
        await client.import_memory(tmp_path / "file", name="b")
        for name in ("a", "b"):
            match = (await client.memory(name).query(images(1), match=True)).match
            assert match is not None
            assert match.payload == [payload]


async def test_items_outlive_the_server_and_follow_erases_forks_and_files(durable: ShardSpec, tmp_path: Path) -> None:
    given = images(PAGE + 2)
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="able", page_patterns=PAGE)
        await memory.store(given, ids=[str(n) for n in range(len(given))])
        await memory.erase(given[PAGE : PAGE + 1])
        await memory.fork("fork")
        await memory.export(tmp_path / "file")
    async with connected(durable) as client:
        await client.import_memory(tmp_path / "file", name="copy")
        for name in ("a", "fork", "copy"):
            match = (await client.memory(name).query(given[-1], match=True)).match
            assert match is not None
            assert match.id in [str(n) for n in range(len(given)) if n != PAGE]
        await client.memory("a").rebuild()
        rebuilt = (await client.memory("a").query(given[-1], match=True)).match
        assert rebuilt is not None
        assert rebuilt.id != str(PAGE)


async def test_texts_match_by_characters_that_differ(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="note")
    keys = np.random.default_rng(1).random((2, 8), dtype=np.float32)
    await memory.store({"word": ["dabbed", "abba"], "key": keys}, payloads=[1, 2])
    match = (await memory.query({"word": ["dabbed", "abba"]}, match=True)).match
    assert match is not None
    assert set(match.text()) <= {"dabbed", "abba"}


async def test_a_memory_without_kept_patterns_has_no_match(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="tiny")
    match = (await memory.query(images(2), match=True)).match
    assert match is not None
    assert np.isinf(match.distance).all()
    assert (match.id, match.payload) == (["", ""], [None, None])


async def test_bad_items_are_refused_by_name(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="tiny")
    for arguments, message in (
        ({"ids": ["x"]}, r"ids: saw 1 of them; expected a list of 2, one for each pattern"),
        ({"ids": "x"}, r"ids: saw 1 of them; expected a list of 2"),
        ({"ids": ["x", "y" * 257]}, r"ids\[1\]: saw 257 characters; expected a str of at most 256"),
        ({"payloads": [None, b"x" * 65_537]}, r"payloads\[1\]: saw 65537 bytes; expected at most 65536"),
        ({"payloads": [None, {1, 2}]}, r"payloads\[1\]: saw set, which JSON cannot say"),
    ):
        with pytest.raises(attractor.InvalidRequest, match=message):
            await memory.store(images(2), **arguments)
    assert (await memory.info()).patterns == 0


async def test_the_server_checks_items_by_itself(durable: ShardSpec) -> None:
    item = memories_pb2.Item
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        stub = memory_data_pb2_grpc.MemoryDataStub(channel)
        for items, field in (
            ([item(id="x")], "items"),
            ([item(), item(payload=b"{", json=True)], "items[1].payload"),
            ([item(), item(id="x" * 257)], "items[1].id"),
            ([item(), item(payload=b"x" * 65_537)], "items[1].payload"),
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.Store(pb.StoreRequest(memory="a", tensors=[tensor(images(2))], items=items))
            assert field in (caught.value.details() or "")
        stored = pb.StoreRequest(memory="a", tensors=[tensor(images(1))], items=[item(id="x", payload=b"1", json=True)])
        await stub.Store(stored)
        found = (await stub.Query(pb.QueryRequest(memory="a", tensors=[tensor(images(1))], match=True))).matches
        assert [one.id for one in found.items] == ["x"]


async def test_matches_too_long_for_a_message_are_a_clear_error(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="tiny")
    await memory.store(images(1), payloads=[b"x" * 65_536])
    with pytest.raises(attractor.Exhausted, match="query fewer patterns at a time"):
        await memory.query(images(300), match=True)
    assert (await memory.query(images(100), match=True)).match is not None


async def test_items_and_matches_go_by_way_of_another_shard(durable: ShardSpec) -> None:
    async with serving(durable, 2) as (shard, _), attractor.connect(shard.info.address, direct=False) as client:
        for name in ("a", "b", "c", "d"):
            memory = await client.create_memory(name, model="tiny")
            await memory.store(images(2), ids=[f"{name}0", f"{name}1"])
            match = (await memory.query(images(2), match=True)).match
            assert match is not None
            assert {one[0] for one in match.id} == {name}


async def test_a_server_that_keeps_nothing_takes_no_items(spec: ShardSpec) -> None:
    async with connected(spec) as client:
        memory = await client.create_memory("a", model="tiny")
        with pytest.raises(attractor.NotKept, match="items: this server keeps no patterns"):
            await memory.store(images(1), ids=["x"])
        with pytest.raises(attractor.NotKept, match="match: this server keeps no patterns"):
            await memory.query(images(1), match=True)
        assert (await memory.store(images(1))).total == 1
