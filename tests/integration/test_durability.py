"""What a shard with a store acknowledged outlives it: a test stops one shard and starts the next on the same folder."""

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import apsw
import pytest
from grpc import aio
from numpy.testing import assert_allclose, assert_array_equal
from tests.support import raw
from tests.support.postgresql import PostgresServer
from tests.support.raw import tensor
from tests.support.shards import connected, serving
from tests.support.tiny_models import Images, images

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.backends.sqlite_backend import folder_of

PAGE = 4


@pytest.mark.parametrize("write", ["rewrite", "stream"])
@pytest.mark.parametrize("count", [1, PAGE, 3 * PAGE + 1])
async def test_a_memory_recalls_after_a_restart_as_before_it(
    durable: ShardSpec, write: Literal["rewrite", "stream"], count: int
) -> None:
    given = images(count)
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="tiny", write=write, page_patterns=PAGE)
        for image in given:
            await memory.store(image[None])
        before = await memory.query(given)
    async with connected(durable) as client:
        after = await client.memory("a").query(given)
        info = await client.memory("a").info()
        assert (await client.memory("a").store(images(1, seed=1))).total == count + 1
    assert_allclose(after.pattern, before.pattern, rtol=1e-5, atol=1e-5)
    assert_array_equal(after.page, before.page)
    assert (info.patterns, info.version, info.pages) == (count, count, -(-count // PAGE))


async def test_dots_and_dashes_are_names_as_others_and_no_paths(on_disk: ShardSpec, tmp_path: Path) -> None:
    names = ["-x", ".", "..", "../../b", "a/../b", "b"]
    async with connected(on_disk) as client:
        for count, name in enumerate(names, 1):
            memory = await client.create_memory(name, model="tiny")
            await memory.store(images(count))
    async with connected(on_disk) as client:
        assert {info.name: info.patterns async for info in client.memories()} == dict(
            zip(names, range(1, 7), strict=True)
        )
        await client.delete_memory("..")
        assert [info.name async for info in client.memories()] == [name for name in names if name != ".."]
    assert await anyio.to_thread.run_sync(os.listdir, tmp_path) == ["data"]


async def test_memories_are_listed_and_shown_before_they_are_touched(durable: ShardSpec) -> None:
    async with connected(durable) as client:
        for name in ("b", "a/1", "a/2"):
            memory = await client.create_memory(name, model="tiny", page_patterns=PAGE)
            await memory.store(images(PAGE + 1))
    async with connected(durable) as client:
        listed = [info async for info in client.memories("a/")]
        assert [(info.name, info.patterns, info.pages) for info in listed] == [("a/1", 5, 2), ("a/2", 5, 2)]
        shown = await client.memory("b").info()
    assert (shown.patterns, shown.pages, shown.settings.page_patterns) == (5, 2, PAGE)


async def test_a_repeat_after_a_restart_gets_the_first_answer_and_applies_nothing(durable: ShardSpec) -> None:
    request = pb.StoreRequest(memory="a", tensors=[tensor(images(2))], client_id="tests", sequence=1)
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        first = await memory_data_pb2_grpc.MemoryDataStub(channel).Store(request)
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        unary = memory_data_pb2_grpc.MemoryDataStub(channel)
        assert await unary.Store(request) == first
        request.sequence = 2
        assert (await unary.Store(request)).total == 4


async def test_what_was_erased_stays_erased(durable: ShardSpec) -> None:
    given = images(3)
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="able", page_patterns=PAGE)
        await memory.store(given)
        await memory.erase(given[:1])
        before = await memory.query(given)
    async with connected(durable) as client:
        memory = client.memory("a")
        assert_allclose((await memory.query(given)).pattern, before.pattern, rtol=1e-5, atol=1e-5)
        assert (await memory.info()).patterns == 2


async def test_what_the_eraser_changed_comes_back_as_it_was(durable: ShardSpec) -> None:
    given = images(PAGE + 1)
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="able", page_patterns=PAGE, retain="open_page")
        await memory.store(given)
        await memory.erase(given[:1])  # of a sealed page, whose patterns nobody keeps
        before = await memory.recognize(given)
    async with connected(durable) as client:
        after = await client.memory("a").recognize(given)
    assert_allclose(after.energy, before.energy, rtol=1e-5, atol=1e-5)


async def test_a_deleted_memory_does_not_come_back_and_leaves_no_bytes(on_disk: ShardSpec) -> None:
    given = images(PAGE + 1)
    async with connected(on_disk) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)
        await memory.store(given)
        await client.delete_memory("a")
        assert not [info async for info in client.memories("")]
    async with connected(on_disk) as client:
        with pytest.raises(attractor.MemoryNotFound):
            await client.memory("a").query(given)
        await client.create_memory("a", model="tiny")
        assert (await client.memory("a").info()).patterns == 0
    left = await anyio.to_thread.run_sync(_bytes_below, folder_of(on_disk.store_uri))
    assert not any(image.tobytes() in left for image in given)


async def test_more_memories_than_the_bank_has_places_come_back(durable: ShardSpec) -> None:
    small = replace(durable, bank_bytes=1)
    given = {f"m/{n}": images(PAGE + 1, seed=n) for n in range(8)}
    async with connected(small) as client:
        before = {}
        for name, patterns in given.items():
            memory = await client.create_memory(name, model="tiny", page_patterns=PAGE)
            await memory.store(patterns)
            before[name] = (await memory.query(patterns)).pattern
    async with connected(small) as client:
        for name, patterns in given.items():
            after = (await client.memory(name).query(patterns)).pattern
            assert_allclose(after, before[name], rtol=1e-5, atol=1e-5)


async def test_memories_that_come_back_together_are_as_they_were_and_a_damaged_one_fails_alone(
    on_disk: ShardSpec,
) -> None:
    given = {f"m{n}": images(n % PAGE + 1, seed=n) for n in range(12)}
    async with connected(on_disk) as client:
        before = {}
        for name, image in given.items():
            memory = await client.create_memory(name, model="tiny", write="stream" if name == "m5" else "rewrite")
            for one in image:
                await memory.store(one)
            before[name] = (await memory.query(image)).pattern
    await anyio.to_thread.run_sync(_damage, folder_of(on_disk.store_uri), "m3")
    async with connected(on_disk) as client:
        after: dict[str, Images] = {}

        async def ask(name: str) -> None:
            if name == "m3":
                with pytest.raises(attractor.AttractorError, match="another checksum"):
                    await client.memory(name).query(given[name])
            else:
                after[name] = (await client.memory(name).query(given[name])).pattern

        async with anyio.create_task_group() as tasks:
            for name in given:
                tasks.start_soon(ask, name)
    assert len(after) == len(given) - 1
    for name, pattern in after.items():
        assert_allclose(pattern, before[name], rtol=1e-5, atol=1e-5)


def _damage(folder: Path, name: str) -> None:
    with closing(SqliteDatabase(folder)) as store, store.transaction() as cursor:
        cursor.execute(
            "UPDATE entries SET checksum = checksum + 1 WHERE content IN "
            "(SELECT content FROM pages JOIN memories ON memory = memories.id WHERE name = ?)",
            (name,),
        )


async def test_a_store_that_is_not_committed_fails_and_changes_nothing_and_only_the_log_says_where(
    on_disk: ShardSpec, caplog: pytest.LogCaptureFixture
) -> None:
    given = images(2)
    async with connected(on_disk) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)
        await memory.store(given)
        before, info = await memory.query(given), await memory.info()
        with refusing(on_disk), pytest.raises(attractor.AttractorError, match="failed and changed nothing") as told:
            await memory.store(images(3, seed=1), timeout_s=2)
        assert await memory.info() == info
        assert "attractor.db" not in str(told.value)
        assert any(
            f"{folder_of(on_disk.store_uri)}/attractor.db failed" in line and "is full" in line
            for line in caplog.messages
        )
        after = await memory.query(given)
        assert_allclose(after.pattern, before.pattern, rtol=1e-5, atol=1e-5)
        with refusing(on_disk), pytest.raises(attractor.AttractorError, match="failed and changed nothing"):
            await memory.erase(given[:1], timeout_s=2)
        assert await memory.info() == info
        assert (await memory.store(images(1, seed=2))).total == 3


async def test_stores_go_on_and_are_applied_once_while_connections_to_the_database_are_cut(
    spec: ShardSpec, postgres: PostgresServer
) -> None:
    kept, given = replace(spec, store_uri=postgres.store()), images(24)
    async with connected(kept) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE)
        for count, image in enumerate(given, 1):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, postgres.cut_off)
                assert (await memory.store(image[None])).total == count
        before = await memory.query(given)
    async with connected(kept) as client:
        after = await client.memory("a").query(given)
        assert (await client.memory("a").info()).version == len(given)
    assert_allclose(after.pattern, before.pattern, rtol=1e-5, atol=1e-5)


async def test_a_memory_of_a_model_that_the_server_has_no_more_says_so(durable: ShardSpec) -> None:
    async with connected(durable) as client:
        await client.create_memory("a", model="tiny")
    async with connected(replace(durable, models=None)) as client:
        with pytest.raises(attractor.AttractorError, match=r"memory 'a' was made from model tiny \(sha256:"):
            await client.memory("a").query(images(1))
        await client.delete_memory("a")
        with pytest.raises(attractor.MemoryNotFound):
            await client.memory("a").info()


class refusing:  # noqa: N801 - reads as a verb
    """The store takes no entries inside the block, as if the disk were full."""

    def __init__(self, spec: ShardSpec) -> None:
        self._path = str(folder_of(spec.store_uri) / "attractor.db")

    def __enter__(self) -> None:
        self._run("CREATE TRIGGER refuse BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")

    def __exit__(self, *_: object) -> None:
        self._run("DROP TRIGGER refuse")

    def _run(self, statement: str) -> None:
        connection = apsw.Connection(self._path)
        connection.set_busy_timeout(5000)
        connection.execute(statement)
        connection.close()


def _bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
