"""A memory is written anew in parts: others are served in between, and it is as it was until all is done."""

from collections.abc import Sequence
from contextlib import closing

import anyio
import anyio.to_thread
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from tests.support.shards import connected
from tests.support.tiny_models import images

import attractor
from attractor_server.cli.main import main
from attractor_server.engine.engine import Engine
from attractor_server.engine.operations import rebuild
from attractor_server.errors import ServerError, StoreDamaged
from attractor_server.memories.outcomes import Outcome
from attractor_server.memories.records import Change
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.backends.sqlite_backend import folder_of
from attractor_server.storage.memory_store import SqlMemoryStore

PAGES = 60


class Batches:
    """The operations of all batches, in their order; rebuilding writes a page in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Operation] = []
        self.tending = anyio.Event()
        plain = Engine.run

        def run(engine: Engine, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
            self.seen.append(jobs[0].operation)
            if jobs[0].operation is Operation.TASK:
                jobs[0].future.get_loop().call_soon_threadsafe(self.tending.set)
            return plain(engine, jobs)

        monkeypatch.setattr(Engine, "run", run)
        monkeypatch.setattr(rebuild, "PART_S", 0)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    return Batches(monkeypatch)


async def large(client: attractor.AsyncClient, name: str = "large") -> attractor.AsyncMemory:
    memory = await client.create_memory(name, model="tiny", page_patterns=1)
    await memory.store(images(PAGES))
    return memory


@pytest.mark.parametrize("name", ["large", "n/large"])
async def test_queries_of_others_wait_for_a_few_parts_alone(durable: ShardSpec, batches: Batches, name: str) -> None:
    async with connected(durable) as client:
        memory, other = await large(client, name), await client.create_memory("other", model="tiny")
        await other.store(images(2))
        waits = list[int]()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(memory.rebuild)
            await batches.tending.wait()
            while len(waits) < PAGES // 4:
                before = len(batches.seen)
                await other.query(images(1))
                waits.append(batches.seen[before:].count(Operation.TASK))
        assert batches.seen.count(Operation.TASK) > PAGES
        assert max(waits) <= 4


async def test_the_memory_itself_waits_and_is_then_as_if_it_was_written_at_once(
    durable: ShardSpec, batches: Batches
) -> None:
    async with connected(durable) as client:
        memory = await large(client)
        before = (await memory.query(images(PAGES))).pattern
        stored = list[attractor.StoreResult]()

        async def store() -> None:
            await batches.tending.wait()
            stored.append(await memory.store(images(1, seed=1)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store)
            info = await memory.rebuild()
        assert (info.version, info.patterns) == (2, PAGES)
        assert stored == [attractor.StoreResult(3, PAGES + 1)]
        assert_allclose((await memory.query(images(PAGES))).pattern, before, atol=1e-5)
        assert (await memory.rebuild(page_patterns=7)).pages == -(-(PAGES + 1) // 7)
        assert (await memory.rebuild()).patterns == PAGES + 1


async def test_a_memory_that_is_deleted_meanwhile_is_not_written_any_further(
    on_disk: ShardSpec, batches: Batches
) -> None:
    async with connected(on_disk) as client:
        memory = await large(client)

        async def delete() -> None:
            await batches.tending.wait()
            await client.delete_memory("large")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete)
            with pytest.raises(attractor.MemoryNotFound):
                await memory.rebuild()
    await anyio.to_thread.run_sync(verified, on_disk, 0)


async def test_a_rebuild_that_fails_in_the_middle_leaves_the_memory_as_it_was(
    on_disk: ShardSpec, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = SqlMemoryStore.add_pages, list[Change]()

    def failing(journal: SqlMemoryStore, change: Change) -> None:
        calls.append(change)
        if len(calls) == PAGES // 2:
            raise StoreDamaged("another error")
        plain(journal, change)

    async with connected(on_disk) as client:
        memory = await large(client)
        before = (await memory.query(images(PAGES))).pattern
        monkeypatch.setattr(SqlMemoryStore, "add_pages", failing)
        with pytest.raises(attractor.AttractorError, match="another error"):
            await memory.rebuild()
        assert np.allclose((await memory.query(images(PAGES))).pattern, before, atol=1e-5)
        assert (await memory.info()).version == 1
    await anyio.to_thread.run_sync(verified, on_disk, 1)


def verified(spec: ShardSpec, memories: int) -> None:
    """Nothing is wrong with the store, nor left in it beside so many memories."""
    told = CliRunner().invoke(main, ["verify", "--backend-store-uri", spec.store_uri, "--models", str(spec.models)])
    assert told.exit_code == 0, told.output
    with closing(SqliteDatabase(folder_of(spec.store_uri))) as store, store.read() as cursor:
        assert cursor.execute("SELECT count(*) FROM memories").fetchone() == (memories,)
