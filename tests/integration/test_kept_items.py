"""Items of a memory by id, in lists and counted: what agents ask a memory for besides recall."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from anyio import to_thread
from click.testing import CliRunner
from grpc import aio
from numpy.testing import assert_array_equal
from tests.support import raw
from tests.support.shards import connected, serving
from tests.support.tiny_models import images

import attractor
from attractor_proto.v1 import memory_items_pb2 as pb
from attractor_proto.v1 import memory_items_pb2_grpc as rpc
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec

PAGE = 4
COUNT = 2 * PAGE + 3


def payload_of(number: int) -> dict[str, object]:
    return {"n": number, "user": {"name": "ada" if number % 2 else "bob"}}


async def filled(client: attractor.AsyncClient, name: str = "a") -> attractor.AsyncMemory:
    memory = await client.create_memory(name, model="tiny", page_patterns=PAGE)
    given, ids = images(COUNT), [f"i{n}" for n in range(COUNT)]
    await memory.store(given[:7], ids=ids[:7], payloads=[payload_of(n) for n in range(7)])
    for n in range(7, COUNT):
        await memory.store(given[n], ids=ids[n], payloads=payload_of(n))
    return memory


async def ids_of(memory: attractor.AsyncMemory, **asked: object) -> list[str]:
    return [item.id async for item in memory.items.list(**asked)]  # type: ignore[arg-type]


async def test_items_are_listed_found_and_counted_and_follow_forks_files_and_erases(
    durable: ShardSpec, tmp_path: Path
) -> None:
    given, everything = images(COUNT), [f"i{n}" for n in range(COUNT)]
    before = datetime.now(UTC)
    async with connected(durable) as client:
        memory = await filled(client)
        assert await ids_of(memory) == everything
        assert await ids_of(memory, page_size=2) == everything
        assert await ids_of(memory, page_size=3, newest_first=True) == everything[::-1]
        found = await memory.items.get(["i9", "nothing", "i2"], values=True)
        assert [(item.id, item.payload) for item in found] == [("i2", payload_of(2)), ("i9", payload_of(9))]
        assert_array_equal([item.pattern for item in found], given[[2, 9]])
        assert all(item.has_pattern and item.expires is None for item in found)
        assert all(item.created and timedelta() <= item.created - before < timedelta(hours=1) for item in found)
        listed = [item async for item in memory.items.list(values=True, page_size=4)]
        assert_array_equal([item.pattern for item in listed], given)
        assert listed[0].fields.keys() == {"image"}
        where: attractor.Filter = {"user.name": "ada", "n": {"$gt": 2, "$lte": 9}}
        assert await ids_of(memory, where=where, page_size=2) == ["i3", "i5", "i7", "i9"]
        assert (await memory.items.count(), await memory.items.count(where=where)) == (COUNT, 4)
        fork = await memory.fork("fork")
        await memory.erase(given[2])
        await memory.export(tmp_path / "file")
        copy = await client.import_memory(tmp_path / "file", name="copy")
        for one, there in ((memory, False), (copy, False), (fork, True)):
            assert await ids_of(one) == [name for name in everything if there or name != "i2"]
            assert len(await one.items.get("i2")) == there
        assert [item.created for item in await copy.items.get("i9")] == [found[1].created]
        await memory.rebuild()
        assert len(await ids_of(memory)) == await memory.items.count() == COUNT - 1
    async with connected(durable) as client:
        assert [item.id for item in await client.memory("fork").items.get(["i2", "i10"])] == ["i2", "i10"]


async def test_items_are_asked_for_through_another_shard_without_async_and_from_a_shell(on_disk: ShardSpec) -> None:
    async with serving(on_disk, 2) as (shard, _), attractor.connect(shard.info.address, direct=False) as client:
        for name in ("a", "b", "c"):
            await filled(client, name)
            assert len(await client.memory(name).items.get(["i1", "i2"])) == 2

        def ask() -> None:
            with attractor.Client(shard.info.address) as without:
                items = without.memory("a").items
                assert [item.id for item in items.list(where={"n": {"$in": [3, 4]}})] == ["i3", "i4"]
                assert (items.get("i3")[0].payload, items.count()) == (payload_of(3), COUNT)

        def run(*arguments: str) -> str:
            result = CliRunner().invoke(main, ["memory", "items", *arguments, "--server", shard.info.address])
            assert result.exit_code == 0, result.output
            return result.output

        await to_thread.run_sync(ask)
        listed = await to_thread.run_sync(lambda: run("ls", "a", "--where", '{"n": {"$gte": 9}}', "--json"))
        assert [json.loads(line)["payload"] for line in listed.splitlines()] == [payload_of(9), payload_of(10)]
        assert "i4\t" in await to_thread.run_sync(lambda: run("get", "a", "i4"))
        assert await to_thread.run_sync(lambda: run("count", "a")) == f"{COUNT}\n"


async def test_questions_that_cannot_be_meant_are_refused_by_field(on_disk: ShardSpec) -> None:
    def of(path: str, comparison: int = pb.COMPARISON_EQ, value: bytes = b"1") -> pb.Filter:
        return pb.Filter(all=[pb.Condition(path=path, comparison=comparison, value=value)])  # type: ignore[arg-type]

    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        stub = rpc.ItemsStub(channel)
        for filter_, seen in (
            (of(""), "filter.all[0].path: saw '', 0 characters; expected 1 to 256"),
            (of("a..b"), "filter.all[0].path: saw 'a..b', with an empty name; expected names separated by '.'"),
            (of("a", 0), "filter.all[0].comparison: saw 0; expected one of 1 (eq)"),
            (of("a", value=b"{"), "filter.all[0].value: saw bytes that are no JSON"),
            (of("a", value=b"NaN"), "filter.all[0].value: saw bytes that are no JSON"),
            (
                of("a", value=b"[" * 101 + b"]" * 101),
                "filter.all[0].value: saw JSON of 101 levels; expected at most 100",
            ),
            (of("a", pb.COMPARISON_GT, b"true"), "filter.all[0].value: saw True for gt; expected a number or a text"),
            (of("a", pb.COMPARISON_IN), "filter.all[0].value: saw 1 for in; expected a list"),
            (pb.Filter(all=33 * [pb.Condition()]), "filter.all: saw 33 conditions; expected at most 32"),
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.List(pb.ItemsListRequest(name="a", filter=filter_))
            assert seen in (caught.value.details() or "")
        for request, seen in (
            (pb.ItemsListRequest(name="a", page_size=1001), "page_size: saw 1001; expected at most 1000"),
            (pb.ItemsListRequest(name="a", page_token="x"), "page_token: saw 'x'; expected the next_page_token"),
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.List(request)
            assert seen in (caught.value.details() or "")
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.Get(pb.ItemsGetRequest(name="a", ids=["x" * 257]))
        assert "ids[0]: saw 'xx" in (caught.value.details() or "")


async def test_a_server_that_keeps_nothing_has_no_items(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="tiny")
    await memory.store(images(1))
    with pytest.raises(attractor.NotKept, match="items: this server keeps no patterns"):
        await memory.items.count()


async def test_a_list_goes_on_behind_pages_that_change_meanwhile(on_disk: ShardSpec) -> None:
    async with connected(on_disk) as client:
        memory = await filled(client)
        given, seen = images(COUNT), list[str]()
        async for item in memory.items.list(page_size=2):
            seen.append(item.id)
            if len(seen) == 2:
                await memory.erase(given[1])
        assert set(seen) == {f"i{n}" for n in range(COUNT)}
        assert np.unique(seen[5:]).size == len(seen[5:])


async def test_payloads_come_back_as_they_went_in_or_are_refused(durable: ShardSpec) -> None:
    given: list[object] = [
        b"",
        b"\x00",
        "",
        "a\x00b",
        [],
        {},
        {"": {"a.b": [1, 1.5, None, True]}},
        0,
        False,
        2**70,
        None,
    ]
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)
        await memory.store(images(len(given)), payloads=given)
        back = [item.payload async for item in memory.items.list()]
        assert [(type(one), one) for one in back] == [(type(one), one) for one in given]
        for odd, seen in (
            ({1: "x"}, "the key 1, which JSON would make a str"),
            ({"a": [{"b": (1, 2)}]}, "a tuple, which JSON would make a list; expected lists"),
            (float("nan"), "float, which JSON cannot say"),
        ):
            with pytest.raises(attractor.InvalidRequest, match=rf"payloads\[0\]: saw {seen}"):
                await memory.store(images(1), payloads=[odd])


async def test_an_id_that_no_database_can_find_is_kept_all_the_same(durable: ShardSpec) -> None:
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="tiny")
        await memory.store(images(2), ids=["a\x00b", "x"], ttl_s=600)
        assert (await memory.store(images(1), ids=["a\x00b"], on_conflict="replace")).total == 3
        assert await ids_of(memory) == ["a\x00b", "x", "a\x00b"]
        with pytest.raises(attractor.InvalidRequest, match=r"ids\[0\]: saw 'a\\x00b'"):
            await memory.items.get("a\x00b")
