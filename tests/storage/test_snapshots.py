"""Forks and snapshots in the backend store: pages shared until one of them is written."""

from contextlib import closing
from pathlib import Path

import pytest
from tests.support.stored_memories import bytes_in, counted, found, made, some, store, take_many, versions

from attractor_server.errors import NameTaken, SnapshotNotFound, TagTaken
from attractor_server.memories.records import Change, Image, Item, Remade
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.memory_store import SqlMemoryStore


def test_a_fork_has_what_its_origin_had_and_then_each_goes_its_own_way(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    store(journal, memory.id, 1)
    fork = journal.fork(memory.id, "b")
    assert (fork.version, fork.patterns, fork.settings) == (1, 1, memory.settings)
    store(journal, memory.id, 2)
    store(journal, fork.id, 2, page=1)
    store(journal, fork.id, 3)
    assert versions(journal, memory.id) == [1, 2]
    assert versions(journal, fork.id) == [1, 3]
    assert versions(journal, fork.id, 1) == [2]
    assert journal.page(fork.id, 0).entries[0].items == [Item(id="v1")]


def test_a_fork_that_is_asked_for_again_is_the_same_until_either_is_written(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    fork = journal.fork(memory.id, "b")
    assert journal.fork(memory.id, "b").id == fork.id
    store(journal, fork.id, 1)
    with pytest.raises(NameTaken, match="memory 'b' exists, and is another one"):
        journal.fork(memory.id, "b")
    with pytest.raises(NameTaken):
        journal.fork(memory.id, "a")


def test_what_origin_and_fork_share_outlives_either(on_disk: SqlMemoryStore, tmp_path: Path) -> None:
    memory = made(on_disk, "a")
    store(on_disk, memory.id, 1, image=b"weights")
    fork = on_disk.fork(memory.id, "b")
    on_disk.delete(memory.id)
    assert versions(on_disk, fork.id) == [1]
    assert on_disk.page(fork.id, 0).image == Image(page=0, version=1, content=b"weights")
    assert some(1).tobytes() in bytes_in(tmp_path)
    on_disk.delete(fork.id)
    assert some(1).tobytes() not in bytes_in(tmp_path)


def test_a_snapshot_is_no_memory_and_keeps_what_was(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    store(journal, memory.id, 1)
    first = journal.snapshot(memory.id, "before")
    assert (first.tag, first.version, first.patterns) == ("before", 1, 1)
    assert journal.snapshot(memory.id, "before") == first
    store(journal, memory.id, 2)
    with pytest.raises(TagTaken, match="'before', which memory 'a' has for its version 1, and it is at 2 now"):
        journal.snapshot(memory.id, "before")
    assert journal.snapshots(memory.id) == [first]
    assert journal.find("a@before") is None
    assert [one.name for one in journal.list_by_name(prefix="", after="", size=9)] == ["a"]


def test_restoring_brings_the_pages_back_and_the_version_goes_on(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    store(journal, memory.id, 1)
    journal.snapshot(memory.id, "before")
    store(journal, memory.id, 2)
    store(journal, memory.id, 3, page=1)
    assert journal.restore(memory.id, "before") == (4, 1)
    assert [page.number for page in found(journal, "a").pages] == [0]
    assert versions(journal, memory.id) == [1]
    store(journal, memory.id, 5)
    assert journal.restore(memory.id, "before") == (6, 1)
    with pytest.raises(SnapshotNotFound, match=r"'other'; expected one of this memory's snapshots \['before'\]"):
        journal.restore(memory.id, "other")


def test_a_fork_can_be_made_of_a_snapshot(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    store(journal, memory.id, 1)
    journal.snapshot(memory.id, "before")
    store(journal, memory.id, 2)
    fork = journal.fork(memory.id, "b", tag="before")
    assert (fork.version, versions(journal, fork.id)) == (1, [1])


def test_no_byte_of_a_deleted_memory_stays_in_its_snapshots(on_disk: SqlMemoryStore, tmp_path: Path) -> None:
    memory = made(on_disk, "a")
    store(on_disk, memory.id, 1)
    on_disk.snapshot(memory.id, "before")
    emptied = Change(memory=memory.id, version=2, patterns=0, emptied=[0], pages={0: 0})
    on_disk.commit([emptied])
    assert versions(on_disk, memory.id) == []
    assert some(1).tobytes() in bytes_in(tmp_path)
    on_disk.delete(memory.id)
    assert some(1).tobytes() not in bytes_in(tmp_path)
    assert on_disk.list_by_name(prefix="", after="", size=9) == []


def test_no_byte_of_a_forgotten_snapshot_stays(on_disk: SqlMemoryStore, tmp_path: Path) -> None:
    memory = made(on_disk, "a")
    store(on_disk, memory.id, 1)
    on_disk.snapshot(memory.id, "before")
    on_disk.commit([Change(memory=memory.id, version=2, patterns=0, dropped=[0])])
    on_disk.forget_snapshot(memory.id, "before")
    assert some(1).tobytes() not in bytes_in(tmp_path)
    assert on_disk.snapshots(memory.id) == []


def test_a_memory_that_was_remade_is_of_the_other_model_and_its_snapshot_of_the_old_one(
    journal: SqlMemoryStore,
) -> None:
    memory = made(journal, "a")
    store(journal, memory.id, 1)
    journal.snapshot(memory.id, "before")
    remade = Remade(model="n", model_digest="sha256:2", page_patterns=8, metric="own")
    journal.commit([Change(memory=memory.id, version=2, patterns=1, dropped=[0], pages={1: 1}, remade=remade)])
    now = found(journal, "a")
    assert (now.model, now.model_digest) == ("n", "sha256:2")
    assert (now.settings.page_patterns, now.settings.metric) == (8, "own")
    journal.restore(memory.id, "before")
    assert (found(journal, "a").model, found(journal, "a").settings.metric) == ("m", "model")


def test_a_memory_whose_time_is_over_is_named_and_one_that_is_written_is_not(journal: SqlMemoryStore) -> None:
    for name in ("short", "written", "long"):
        made(journal, name, ttl_s=1e-9 if name == "short" else 1000)
    made(journal, "kept")
    assert journal.find_expired(size=9) == ["short"]


def test_a_snapshot_costs_no_more_where_there_are_many(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path)) as database:
        journal = SqlMemoryStore(database)
        memory = made(journal, "a")
        store(journal, memory.id, 1)
        work = []
        for begun in (0, 1000):
            take_many(journal, memory.id, (f"{begun}-{number}" for number in range(begun)))
            with counted(database) as steps:
                journal.snapshot(memory.id, f"more-{begun}")
                journal.find_snapshot(memory.id, f"more-{begun}")
                journal.forget_snapshot(memory.id, f"more-{begun}")
            work.append(sum(steps))
    assert work[1] < 2 * work[0]


def test_a_memory_with_some_snapshots_is_deleted_in_few_statements(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path)) as database:
        journal = SqlMemoryStore(database)
        other = made(journal, "b")
        store(journal, other.id, 1)
        memory = made(journal, "a")
        for version in range(1, 6):
            store(journal, memory.id, version)
            take_many(journal, memory.id, (f"{version}-{number}" for number in range(10)))
        fork = journal.fork(memory.id, "c")
        with counted(database) as steps:
            journal.delete(memory.id)
        assert len(steps) < 40
        with database.read() as cursor:
            names = [name for (name,) in cursor.execute("SELECT name FROM memories ORDER BY name")]
            unused = cursor.execute(
                "SELECT count(*) FROM contents WHERE id NOT IN (SELECT content FROM pages)"
            ).fetchone()
        assert (names, unused[0]) == (["b", "c"], 0)
        assert versions(journal, fork.id) == [1, 2, 3, 4, 5]
        assert versions(journal, other.id) == [1]


def test_an_unknown_tag_is_told_with_a_few_that_there_are_and_no_hidden_one(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    with pytest.raises(SnapshotNotFound, match=r"saw 'no'; expected one of this memory's snapshots \[\]$"):
        journal.restore(memory.id, "no")
    take_many(journal, memory.id, [".hidden", *(f"{number:064}" for number in range(100))])
    for call in (lambda: journal.restore(memory.id, "no"), lambda: journal.fork(memory.id, "b", tag="no")):
        with pytest.raises(SnapshotNotFound, match="and 92 more") as caught:
            call()
        assert "hidden" not in caught.value.message
        assert len(caught.value.message) < 1000


def test_snapshots_are_told_in_pages_without_the_hidden_ones(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    take_many(journal, memory.id, ["1", ".hidden", "2", "3"])
    first = journal.snapshots(memory.id, size=2)
    rest = journal.snapshots(memory.id, after=first[-1].id, size=2)
    assert [one.tag for one in (*first, *rest)] == ["1", "2", "3"]
