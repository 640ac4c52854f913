"""Memories by name, over a catalog and a real store."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from attractor_server.errors import Conflict, MemoryNotFound, ModelGone, OtherSettings, StoreFailed
from attractor_server.memories.catalog import Catalog
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.records import NewMemory, StoredMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.shard.directory import MemoryDirectory
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.memory_store import SqlMemoryStore


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    with closing(SqliteDatabase(tmp_path)) as opened:
        yield opened


@pytest.fixture
def journal(database: SqliteDatabase) -> SqlMemoryStore:
    return SqlMemoryStore(database)


@pytest.fixture
def unusable(tmp_path: Path) -> SqlMemoryStore:
    with closing(SqliteDatabase(tmp_path / "closed")) as database:
        return SqlMemoryStore(database)


def restored(stored: StoredMemory) -> MemoryRecord:
    return MemoryRecord(stored.name, stored.model, stored.model_digest, stored.created_s, stored.settings)


def index_of(journal: SqlMemoryStore | None) -> MemoryDirectory:
    return MemoryDirectory(Catalog(), journal, restored, digests={"1"})


def new(name: str, *, digest: str = "1", page_patterns: int = 4) -> NewMemory:
    settings = MemorySettings(page_patterns=page_patterns)
    return NewMemory(name=name, model="m", model_digest=digest, settings=settings)


async def test_a_memory_is_found_by_the_index_that_comes_after_a_restart(journal: SqlMemoryStore) -> None:
    made = await index_of(journal).create(new("a"))
    found = await index_of(journal).get("a")
    assert found.name == "a"
    assert found.created_s == made.created_s


async def test_one_record_stands_for_a_memory_however_many_ask_at_once(journal: SqlMemoryStore) -> None:
    await index_of(journal).create(new("a"))
    index, found = index_of(journal), list[MemoryRecord]()

    async def ask() -> None:
        found.append(await index.get("a"))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(ask)
    assert len({id(record) for record in found}) == 1


async def test_memories_that_are_made_at_once_share_transactions(
    journal: SqlMemoryStore, database: SqliteDatabase
) -> None:
    index, before = index_of(journal), _commits(database)
    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(index.create, new(f"m/{n}"))
    assert len(await index.list_page(prefix="m/", after="", size=200)) == 100
    assert _commits(database) - before < 10


async def test_another_model_or_other_settings_are_a_conflict_after_a_restart_too(journal: SqlMemoryStore) -> None:
    await index_of(journal).create(new("a"))
    index = index_of(journal)
    with pytest.raises(Conflict, match="was made from model m"):
        await index.create(new("a", digest="2"))
    with pytest.raises(OtherSettings, match="page_patterns is 4; asked for 5"):
        await index.create(new("a", page_patterns=5))


async def test_whoever_asks_for_a_memory_that_is_leaving_waits_and_does_not_find_it(journal: SqlMemoryStore) -> None:
    index, found = index_of(journal), list[str]()
    await index.create(new("a"))
    [stored] = await index.list_page(prefix="", after="", size=1)
    assert stored.name == "a"

    async def ask() -> None:
        with pytest.raises(MemoryNotFound):
            await index.get("a")
        found.append("asked")

    await index.remove("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert not found
        memory = journal.find("a")
        assert memory is not None
        await anyio.to_thread.run_sync(journal.delete, memory.id)
        index.finish_removal("a")
    assert found == ["asked"]


async def test_a_store_that_fails_makes_nothing_and_says_so_to_each_who_asked(unusable: SqlMemoryStore) -> None:
    index, failed = index_of(unusable), list[str]()

    async def ask(n: int) -> None:
        with pytest.raises(StoreFailed, match="changed nothing"):
            await index.create(new(f"m/{n}"))
        failed.append(f"m/{n}")

    async with anyio.create_task_group() as tasks:
        for n in range(5):
            tasks.start_soon(ask, n)
    assert len(failed) == 5


async def test_a_memory_of_a_model_that_is_not_served_is_named_and_can_be_removed(journal: SqlMemoryStore) -> None:
    await index_of(journal).create(new("a", digest="gone"))
    index = index_of(journal)
    with pytest.raises(ModelGone, match=r"memory 'a' was made from model m \(gone\)"):
        await index.get("a")
    assert [record.name for record in await index.list_page(prefix="", after="", size=5)] == ["a"]
    assert (await index.remove("a")).name == "a"


async def test_without_a_store_memories_are_as_the_catalog_has_them() -> None:
    index = index_of(None)
    await index.create(new("b"))
    await index.create(new("a"))
    assert [record.name for record in await index.list_page(prefix="", after="", size=5)] == ["a", "b"]
    await index.remove("a")
    index.finish_removal("a")
    with pytest.raises(MemoryNotFound):
        await index.get("a")


def _commits(database: SqliteDatabase) -> int:
    with database.read() as cursor:
        return int(str(cursor.execute("SELECT value FROM counters WHERE name = 'commits'").fetchall()[0][0]))
