"""Stores that leave out what a memory has already, about: in one turn of the memory, whoever writes beside."""

from collections.abc import AsyncIterator

import anyio
import numpy as np
import pytest
from grpc import aio
from numpy.typing import NDArray
from tests.support.raw import tensor
from tests.support.shards import connected, serving
from tests.support.tiny_models import images

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc
from attractor_server.shard.spec import ShardSpec

PAGE = 4


def drawn(count: int, seed: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 4, 4)).astype(np.float32).clip(-4, 5)


@pytest.fixture
async def client(on_disk: ShardSpec) -> AsyncIterator[attractor.AsyncClient]:
    async with connected(on_disk) as client:
        yield client


async def test_what_is_similar_to_a_kept_pattern_is_left_out_and_named(client: attractor.AsyncClient) -> None:
    memory, given = await client.create_memory("a", model="tiny", page_patterns=PAGE), drawn(9)
    first = await memory.store(given[:6], ids=[*"abcdef"], unless_similar=0.97)
    assert (first.total, first.existing) == (6, (None,) * 6)
    near = given[[1, 4]] * np.float32(0.5) + np.float32(0.01)
    again = await memory.store(
        np.stack([near[0], given[6], near[1], given[6] * 1.0001, given[7]]),
        ids=[*"vwxyz"],
        payloads=[1, 2, 3, 4, 5],
        unless_similar=0.97,
    )
    assert again.existing == ("b", None, "e", "w", None)
    assert again.total == (await memory.info()).patterns == 8
    kept = [item async for item in memory.items.list(values=True)]
    assert [(item.id, item.payload) for item in kept[6:]] == [("w", 2), ("z", 5)]
    nothing = await memory.store(given[0], ids="other", unless_similar=1.0)
    assert (nothing.existing, nothing.total) == (("a",), 8)
    await memory.items.erase("a")
    assert (await memory.store(given[0], ids="other", unless_similar=0.9)).existing == (None,)
    assert (await memory.store(given[8])).existing == ()
    assert (await memory.store(given[8], unless_similar=0.9)).existing == ("",)


async def test_writers_at_once_leave_no_duplicates(client: attractor.AsyncClient) -> None:
    memory, given = await client.create_memory("a", model="tiny", page_patterns=PAGE), drawn(3)
    results = list[attractor.StoreResult]()

    async def write(writer: int) -> None:
        for n, pattern in enumerate(given):
            results.append(await memory.store(pattern, ids=f"{writer}-{n}", unless_similar=0.99))

    async with anyio.create_task_group() as tasks:
        for writer in range(8):
            tasks.start_soon(write, writer)
    assert (await memory.info()).patterns == len(given)
    assert sum(one.existing == (None,) for one in results) == len(given)
    kept = {item.id async for item in memory.items.list()}
    assert {name for one in results for name in one.existing if name is not None} <= kept


async def test_it_goes_by_way_of_another_shard_and_in_a_unary_call(on_disk: ShardSpec) -> None:
    async with serving(on_disk, 2) as (shard, _), attractor.connect(shard.info.address, direct=False) as client:
        for name in ("a", "b", "c"):
            memory = await client.create_memory(name, model="tiny")
            await memory.store(drawn(2), ids=["x", "y"])
            assert (await memory.store(drawn(2)[1], unless_similar=0.9)).existing == ("y",)
        async with aio.insecure_channel(shard.info.address) as channel:
            stub = memory_data_pb2_grpc.MemoryDataStub(channel)
            asked = pb.StoreRequest(memory="a", tensors=[tensor(drawn(3))], unless_similar=0.9)
            answer = await stub.Store(asked)
            assert (list(answer.existing.similar), list(answer.existing.ids)) == ([True, True, False], ["x", "y", ""])
            asked.unless_similar = 1.5
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.Store(asked)
            assert "unless_similar: saw 1.5; expected a cosine above 0, at most 1" in (caught.value.details() or "")


async def test_what_cannot_be_meant_is_refused(client: attractor.AsyncClient, spec: ShardSpec) -> None:
    memory = await client.create_memory("a", model="tiny")
    with pytest.raises(attractor.InvalidRequest, match="unless_similar: saw 2; expected a cosine above 0, at most 1"):
        await memory.store(images(1), unless_similar=2)
    with pytest.raises(attractor.InvalidRequest, match="with on_conflict replace; expected append"):
        await memory.store(images(1), ids=["x"], on_conflict="replace", unless_similar=0.9)
    note = await client.create_memory("note", model="note")
    with pytest.raises(attractor.InvalidRequest, match="texts, as 'word', have no cosine"):
        await note.store({"word": "abba", "key": np.ones(8, np.float32)}, unless_similar=0.9)
    async with connected(spec) as other:
        with pytest.raises(attractor.NotKept, match="unless_similar: this server keeps no patterns"):
            await (await other.create_memory("a", model="tiny")).store(images(1), unless_similar=0.9)
