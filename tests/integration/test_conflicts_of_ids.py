"""Ids that are unique where a store asks for it: it replaces, refuses or keeps what the memory has."""

from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import to_thread
from click.testing import CliRunner
from grpc import aio
from numpy.testing import assert_allclose, assert_array_equal
from tests.support import raw
from tests.support.raw import tensor
from tests.support.shards import connected, serving
from tests.support.tiny_models import images

import attractor
from attractor_proto.v1 import memories_pb2, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import folder_of

PAGE = 4
COUNT = 2 * PAGE + 3


async def listed(memory: attractor.AsyncMemory) -> list[tuple[str, object]]:
    return [(item.id, item.payload) async for item in memory.items.list()]


async def filled(
    client: attractor.AsyncClient, name: str, given: "np.ndarray", **settings: str
) -> attractor.AsyncMemory:
    memory = await client.create_memory(name, model="tiny", page_patterns=PAGE, **settings)  # type: ignore[arg-type]
    ids = [f"i{n}" for n in range(len(given))]
    await memory.store(given, ids=ids, payloads=[f"first {n}" for n in ids])
    return memory


def check_store(spec: ShardSpec) -> None:
    """Hold every row to its checksum, and to what others say."""
    result = CliRunner().invoke(main, ["verify", "--backend-store-uri", spec.store_uri or ""])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("write", ["rewrite", "stream"])
async def test_a_replacement_is_as_exact_as_if_the_old_pattern_had_never_been_stored(
    durable: ShardSpec, write: str
) -> None:
    given, new = images(COUNT), images(4, seed=1)
    changed = given.copy()
    changed[[1, 2, COUNT - 1]] = new[:3]  # of a sealed page two, and one of the page that is being filled
    async with connected(durable) as client:
        memory = await filled(client, "a", given, write=write)
        fork = await memory.fork("fork")
        before = await memory.items.get("i2")
        stored = await memory.store(
            new, ids=["i1", "i2", f"i{COUNT - 1}", "new"], payloads=["1", "2", "3", "4"], on_conflict="replace"
        )
        assert (stored.version, stored.total) == (2, COUNT + 1)
        expected = [(f"i{n}", f"first i{n}") for n in range(COUNT)]
        assert await listed(fork) == expected
        expected[1], expected[2], expected[COUNT - 1] = ("i1", "1"), ("i2", "2"), (f"i{COUNT - 1}", "3")
        expected.append(("new", "4"))
        assert await listed(memory) == expected
        now = await memory.items.get("i2", values=True)
        assert_array_equal(now[0].pattern, new[1])
        assert (now[0].created, now[0].updated) == (before[0].created, (await memory.items.get("new"))[0].created)
        twin = await client.create_memory("twin", model="tiny", page_patterns=PAGE, write=write)  # type: ignore[arg-type]
        for start in range(0, COUNT, PAGE):
            await twin.store(np.concatenate([changed, new[3:]])[start : start + PAGE])
        cues = np.concatenate([given, new])
        for read in (await memory.recognize(cues), await twin.recognize(cues)):
            assert_allclose(read.energy, (await twin.recognize(cues)).energy, rtol=1e-4, atol=1e-5)
    async with connected(durable) as client:
        memory = client.memory("a")
        assert await listed(memory) == expected
        assert_allclose((await memory.recognize(cues)).energy, read.energy, rtol=1e-4, atol=1e-5)
        assert (await memory.store(images(1, seed=2), ids=["new"], on_conflict="replace")).total == COUNT + 1
    await to_thread.run_sync(check_store, durable)


async def test_a_replaced_payload_is_in_no_file_any_more(on_disk: ShardSpec) -> None:
    async with connected(on_disk) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)
        await memory.store(images(COUNT), ids=["x"] * COUNT, payloads=["a secret that was told once"] * COUNT)
        await memory.store(images(1), ids=["x"], payloads=["something else"], on_conflict="replace")

        def content() -> bytes:
            return b"".join(path.read_bytes() for path in Path(folder_of(on_disk.store_uri or "")).iterdir())

        assert b"a secret" not in await to_thread.run_sync(content)
        assert await listed(memory) == [("x", "something else")]
        assert (await memory.info()).patterns == 1
        await memory.store(images(PAGE, seed=1), ids=[f"{n}" for n in range(PAGE)])
        assert (await memory.info()).patterns == PAGE + 1
    await to_thread.run_sync(check_store, on_disk)


async def test_several_patterns_of_one_id_are_replaced_by_fewer_and_by_more(on_disk: ShardSpec) -> None:
    async with connected(on_disk) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)
        await memory.store(images(3), ids=["x", "y", "x"], payloads=[1, 2, 3])
        assert (await memory.store(images(1), ids=["x"], payloads=[4], on_conflict="replace")).total == 2
        assert await listed(memory) == [("x", 4), ("y", 2)]
        assert (await memory.store(images(4), ids=["x"] * 4, payloads=[*"abcd"], on_conflict="replace")).total == 5
        assert await listed(memory) == [("x", "a"), ("y", 2), ("x", "b"), ("x", "c"), ("x", "d")]


async def test_a_store_refuses_or_keeps_what_is_there(durable: ShardSpec) -> None:
    given = images(COUNT)
    async with connected(durable) as client:
        memory = await filled(client, "a", given[:PAGE])
        with pytest.raises(attractor.Conflict, match="memory 'a' has an item with the id 'i2'") as caught:
            await memory.store(given[:2], ids=["new", "i2"], on_conflict="refuse")
        assert caught.value.reason == "ITEM_EXISTS"
        assert (await memory.info()).version == 1
        kept = await memory.store(given[:3], ids=["new", "i2", ""], payloads=[1, 2, 3], on_conflict="keep")
        assert (kept.version, kept.total) == (2, PAGE + 2)
        again = await memory.store(given[:2], ids=["new", "i2"], payloads=[4, 5], on_conflict="keep")
        assert (again.version, again.total) == (3, PAGE + 2)
        assert (await listed(memory))[2:] == [("i2", "first i2"), ("i3", "first i3"), ("new", 1), ("", 3)]
        assert (await memory.store(given[:1], ids=["other"], on_conflict="refuse")).total == PAGE + 3
        with pytest.raises(
            attractor.InvalidRequest, match=r"on_conflict: saw 'merge'; expected one of append, replace"
        ):
            await memory.store(given[:1], ids=["x"], on_conflict="merge")  # type: ignore[arg-type]


async def test_writers_at_once_leave_each_id_once(on_disk: ShardSpec) -> None:
    given, ids = images(3 * PAGE), [f"i{n}" for n in range(3 * PAGE)]
    async with connected(on_disk) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)

        async def write(number: int) -> None:
            for at in range(len(ids)):
                one = (at + number) % len(ids)
                how = "replace" if number % 2 else "keep"
                await memory.store(given[one], ids=ids[one], payloads=[number], on_conflict=how)  # type: ignore[arg-type]

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(write, number)
        assert sorted(name for name, _ in await listed(memory)) == sorted(ids)
        assert (await memory.info()).patterns == len(ids)
    await to_thread.run_sync(check_store, on_disk)


async def test_a_repeated_replacement_is_applied_once_and_another_treatment_is_no_repeat(on_disk: ShardSpec) -> None:
    def asked(on_conflict: pb.OnConflict.ValueType, sequence: int) -> pb.StoreRequest:
        return pb.StoreRequest(
            memory="a",
            tensors=[tensor(images(1))],
            items=[memories_pb2.Item(id="x")],
            client_id="c",
            sequence=sequence,
            on_conflict=on_conflict,
        )

    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        stub = memory_data_pb2_grpc.MemoryDataStub(channel)
        first = await stub.Store(asked(pb.ON_CONFLICT_REPLACE, 1))
        assert await stub.Store(asked(pb.ON_CONFLICT_REPLACE, 1)) == first
        with pytest.raises(aio.AioRpcError, match="was given before"):
            await stub.Store(asked(pb.ON_CONFLICT_KEEP, 1))
        with pytest.raises(aio.AioRpcError, match=r"on_conflict: saw 9; expected 1 \(append\)"):
            await stub.Store(asked(9, 2))  # type: ignore[arg-type]
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        stub = memory_data_pb2_grpc.MemoryDataStub(channel)
        assert await stub.Store(asked(pb.ON_CONFLICT_REPLACE, 1)) == first
        assert await raw.state(channel, "a") == (1, 1)


async def test_only_a_server_that_keeps_patterns_looks_for_ids(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="tiny")
    with pytest.raises(attractor.NotKept, match="on_conflict: this server keeps no patterns"):
        await memory.store(images(1), on_conflict="replace")


async def test_a_full_page_takes_a_replacement_and_a_forgotten_one_takes_its_items_along(on_disk: ShardSpec) -> None:
    given, ids = images(PAGE), [f"i{n}" for n in range(PAGE)]
    async with connected(on_disk) as client:
        full = await client.create_memory("full", model="tiny", page_patterns=PAGE, when_full="refuse")
        await full.store(given, ids=ids)
        assert (await full.store(images(1, seed=1), ids=["i2"], payloads=["new"], on_conflict="replace")).total == PAGE
        with pytest.raises(attractor.MemoryFull):
            await full.store(images(2, seed=2), ids=["i0", "more"], payloads=["lost"] * 2, on_conflict="replace")
        assert await listed(full) == [("i0", None), ("i1", None), ("i2", "new"), ("i3", None)]
        assert (await full.info()).version == 2
        short = await client.create_memory("short", model="tiny", page_patterns=PAGE, when_full="forget")
        await short.store(given, ids=ids)
        await short.store(images(PAGE, seed=1), ids=[f"j{n}" for n in range(PAGE)])
        # What replaces a pattern of a page that is forgotten soon is as new as others of its store.
        (before,) = await short.items.get("i1")
        await short.store(images(2, seed=2), ids=["i1", "k0"], on_conflict="replace")
        assert [name for name, _ in await listed(short)] == [*(f"j{n}" for n in range(PAGE)), "i1", "k0"]
        assert (await short.info()).patterns == PAGE + 2
        assert [(item.id, item.created) for item in await short.items.get(ids)] == [("i1", before.created)]
    await to_thread.run_sync(check_store, on_disk)
