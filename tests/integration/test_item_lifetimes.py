"""Items are erased by id, by their payload and when their time is over; some have no pattern."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from click.testing import CliRunner
from grpc import aio
from numpy.testing import assert_allclose
from tests.support import raw
from tests.support.raw import tensor
from tests.support.shards import connected, serving
from tests.support.tiny_models import images

import attractor
from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as data_pb
from attractor_proto.v1 import memory_items_pb2 as pb
from attractor_proto.v1 import memory_items_pb2_grpc as rpc
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import folder_of

PAGE = 4
COUNT = 2 * PAGE + 3
SECRET = "a secret that was told once"


async def listed(memory: attractor.AsyncMemory, **asked: object) -> list[str]:
    return [item.id async for item in memory.items.list(**asked)]  # type: ignore[arg-type]


async def wait_for_patterns(memory: attractor.AsyncMemory, count: int) -> None:
    with anyio.fail_after(30):
        while (await memory.info()).patterns > count:  # noqa: ASYNC110 - the server's own work tells nobody
            await anyio.sleep(0.05)


async def filled(client: attractor.AsyncClient, name: str = "a") -> attractor.AsyncMemory:
    memory = await client.create_memory(name, model="tiny", page_patterns=PAGE)
    payloads = [{"n": n, "text": SECRET if n in (1, 6) else ""} for n in range(COUNT)]
    await memory.store(images(COUNT), ids=[f"i{n}" for n in range(COUNT)], payloads=payloads)
    return memory


def check_store(spec: ShardSpec) -> None:
    """Hold every row to its checksum, and to what others say."""
    result = CliRunner().invoke(main, ["verify", "--backend-store-uri", spec.store_uri or ""])
    assert result.exit_code == 0, result.output


async def test_items_are_erased_by_id_and_by_payload_as_exactly_as_by_their_patterns(durable: ShardSpec) -> None:
    given, cues = images(COUNT), images(COUNT)
    async with connected(durable) as client:
        memory = await filled(client)
        fork = await memory.fork("fork")
        erased = await memory.items.erase(["i1", "i6", "nothing"])
        assert (erased.version, erased.total, erased.erased) == (2, COUNT - 2, 2)
        await fork.erase(given[[1, 6]])
        assert_allclose((await memory.recognize(cues)).energy, (await fork.recognize(cues)).energy, atol=1e-5)
        assert await memory.items.get(["i1", "i6"]) == []
        assert await listed(memory) == [f"i{n}" for n in range(COUNT) if n not in (1, 6)]
        again = await memory.items.erase(where={"n": {"$gte": COUNT - 2}})
        assert (again.version, again.total, again.erased) == (3, COUNT - 4, 2)
        assert (await memory.items.erase("nothing")).erased == 0
        with pytest.raises(attractor.InvalidRequest, match="ids: saw 0 ids and 0 conditions of a filter; expected ids"):
            await memory.items.erase()
        with pytest.raises(attractor.InvalidRequest, match="ids: saw 1 ids and 1 conditions"):
            await memory.items.erase("i0", where={"n": 1})
    async with connected(durable) as client:
        assert await listed(client.memory("a")) == [f"i{n}" for n in range(COUNT - 2) if n not in (1, 6)]
    await to_thread.run_sync(check_store, durable)


async def test_what_was_erased_by_its_payload_is_in_no_file_any_more(on_disk: ShardSpec) -> None:
    async with connected(on_disk) as client:
        memory = await filled(client)
        await memory.items.put("loose", {"text": SECRET})
        assert (await memory.items.erase(where={"text": {"$contains": "secret"}})).erased == 3

        def content() -> bytes:
            return b"".join(path.read_bytes() for path in Path(folder_of(on_disk.store_uri or "")).iterdir())

        assert SECRET.encode() not in await to_thread.run_sync(content)
    await to_thread.run_sync(check_store, on_disk)


async def test_a_repeated_erase_or_put_is_applied_once_and_gets_the_first_answer(on_disk: ShardSpec) -> None:
    def erase(sequence: int, name: str = "x") -> pb.ItemsEraseRequest:
        return pb.ItemsEraseRequest(name="a", ids=[name], call=memories_pb2.Call(client_id="c", sequence=sequence))

    def put(sequence: int) -> pb.ItemsPutRequest:
        item, call = memories_pb2.Item(id="x", payload=b"1"), memories_pb2.Call(client_id="c", sequence=sequence)
        return pb.ItemsPutRequest(name="a", items=[item], call=call)

    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        data, items = memory_data_pb2_grpc.MemoryDataStub(channel), rpc.ItemsStub(channel)
        store = data_pb.StoreRequest(memory="a", tensors=[tensor(images(1))], items=[memories_pb2.Item(id="x")])
        await data.Store(store)
        first = await items.Erase(erase(1))
        assert (first.version, first.total, first.erased) == (2, 0, 1)
        await data.Store(store)
        repeat = await items.Erase(erase(1))
        assert (repeat.version, repeat.total, repeat.HasField("erased")) == (2, 0, False)
        assert await raw.state(channel, "a") == (3, 1)
        with pytest.raises(aio.AioRpcError, match="was given to a call before"):
            await items.Erase(erase(1, "y"))
        assert (await items.Put(put(2))).version == 4
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        items = rpc.ItemsStub(channel)
        assert (await items.Erase(erase(1))).version == 2
        assert (await items.Put(put(2))).version == 4
        assert (await items.Count(pb.ItemsCountRequest(name="a"))).count == 2
        for bad, seen in (
            (pb.ItemsPutRequest(name="a", items=[memories_pb2.Item(payload=b"1")]), "items[0]: saw '', 0 characters"),
            (pb.ItemsPutRequest(name="a"), "items: saw 0 of them; expected 1 to 1000"),
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await items.Put(bad)
            assert seen in (caught.value.details() or "")


async def test_items_end_when_their_time_is_over_unless_they_are_touched(durable: ShardSpec) -> None:
    given = images(PAGE + 2)
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)
        await memory.store(given[:PAGE], ids=[*"abcd"], payloads=[1, 2, 3, 4], ttl_s=300)
        await memory.store(given[PAGE:], ids=["e", "f"])
        fork, twin = await memory.fork("fork"), await memory.fork("twin")
        (one,) = await memory.items.get("a")
        assert one.expires is not None
        assert timedelta(seconds=200) < one.expires - datetime.now(UTC) < timedelta(seconds=400)
        assert await memory.items.touch(["a", "f", "nothing"], ttl_s=0.01) == 2
        assert await memory.items.touch("b", ttl_s=None) == 1
        await wait_for_patterns(memory, PAGE)
        assert [(item.id, item.expires) for item in await memory.items.get(["b", "f"])] == [("b", None)]
        assert await listed(memory) == [*"bcde"]
        assert (await memory.info()).version == 3
        assert len([item for item in await fork.items.get([*"abcd"]) if item.expires]) == 4
        await twin.erase(given[[0, PAGE + 1]])
        assert_allclose((await memory.recognize(given)).energy, (await twin.recognize(given)).energy, atol=1e-5)
        assert await fork.items.touch([*"abcd"], ttl_s=0.01) == 4
    async with connected(durable) as client:
        await wait_for_patterns(client.memory("fork"), 2)
        assert await listed(client.memory("fork")) == ["e", "f"]
    await to_thread.run_sync(check_store, durable)


async def test_items_without_a_pattern_are_kept_beside_patterns_and_never_recalled(
    durable: ShardSpec, tmp_path: Path
) -> None:
    many = [f"p{n}" for n in range(70)]
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)
        await memory.items.put(many, [{"n": n} for n in range(70)])
        await memory.store(images(2), ids=["x", "y"], payloads=[{"n": 1}, b"bytes"])
        assert await listed(memory) == ["x", "y", *many]
        assert await listed(memory, newest_first=True, page_size=7) == ["x", "y", *many][::-1]
        assert (await memory.info()).patterns == 2
        assert await memory.items.count() == 72
        assert await listed(memory, where={"n": 1}) == ["x", "p1"]
        both = await memory.items.get(["p1", "y"], values=True)
        assert [(item.id, item.has_pattern, len(item.fields)) for item in both] == [("y", True, 1), ("p1", False, 0)]
        # A replacement may get a pattern, or lose it.
        created = both[1].created
        await memory.items.put(["p1", "y"], [{"n": "new"}, None])
        assert (await memory.info()).patterns == 1
        (now,) = await memory.items.get("p1")
        assert (now.payload, now.created) == ({"n": "new"}, created)
        await memory.store(images(1, seed=1), ids=["p2"], payloads=["with a pattern"], on_conflict="replace")
        assert [item.has_pattern for item in await memory.items.get("p2")] == [True]
        with pytest.raises(attractor.Conflict, match="has an item with the id 'x'"):
            await memory.items.put(["new", "x"], on_conflict="refuse")
        await memory.items.put(["x", "kept"], [b"", b""], on_conflict="keep")
        expected = await listed(memory)
        assert expected == ["x", "p2", *many[:1], *many[3:], "p1", "y", "kept"]
        await memory.snapshot("one")
        await memory.export(tmp_path / "file")
        await memory.fork("fork")
        assert (await memory.items.erase([*many, "kept"])).erased == 71
        assert await listed(memory) == ["x", "y"]
        await memory.rebuild()
        assert await listed(memory) == ["x", "y"]
    async with connected(durable) as client:
        copy = await client.import_memory(tmp_path / "file", name="copy")
        restored = client.memory("a")
        await restored.restore("one")
        for one in (copy, restored, client.memory("fork")):
            assert await listed(one) == expected
            assert [item.payload for item in await one.items.get("kept")] == [b""]
            assert (await one.info()).patterns == 2
    await to_thread.run_sync(check_store, durable)


async def test_memories_under_a_prefix_are_deleted_on_all_shards_and_once(on_disk: ShardSpec) -> None:
    def ask(sequence: int, prefix: str = "ada/") -> memories_pb2.DeletePrefixRequest:
        call = memories_pb2.Call(client_id="c", sequence=sequence)
        return memories_pb2.DeletePrefixRequest(prefix=prefix, call=call)

    names = [f"ada/{n}" for n in range(70)]
    async with serving(on_disk, 2) as (shard, _), attractor.connect(shard.info.address) as client:
        for name in (*names, "adam"):
            await client.create_memory(name, model="tiny")
        async with aio.insecure_channel(shard.info.address) as channel:
            stub = memories_pb2_grpc.MemoriesStub(channel)
            assert (await stub.DeletePrefix(ask(1))).deleted == 70
            assert [info.name async for info in client.memories()] == ["adam"]
            await client.create_memory(names[3], model="tiny")
            await client.create_memory("ada/new", model="tiny")
            await stub.DeletePrefix(ask(1))
            assert [info.name async for info in client.memories()] == [names[3], "adam"]
            with pytest.raises(aio.AioRpcError, match="was given to a call before"):
                await stub.DeletePrefix(ask(1, "ada/3"))
        with pytest.raises(attractor.InvalidRequest, match="prefix: saw ''; expected at least one character"):
            await client.delete_memories("")
        assert await client.delete_memories("ada") == 2
        memory = await client.create_memory("adam", model="tiny")
        assert (await memory.store(images(1))).version == 1
