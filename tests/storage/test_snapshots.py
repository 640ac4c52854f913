"""Forks and snapshots in the backend store: pages shared until one of them is written."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.support.stored_memories import bytes_in, made, some, store

from attractor_server.errors import NameTaken, SnapshotNotFound, TagTaken
from attractor_server.memories.records import Change, Entry, Image, Item, Remade, StoredMemory
from attractor_server.memories.store import LEFTOVER_PAGES
from attractor_server.storage.backends.opening import inspect_store, open_store
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.database import Cursor
from attractor_server.storage.memory_store import PARTS_LIMIT, SqlMemoryStore
from attractor_server.storage.tables import imports as import_rows
from attractor_server.storage.tables import snapshots as snapshot_rows
from attractor_server.storage.verify import find_faults


@pytest.fixture
def journal(backend_uri: str) -> Iterator[SqlMemoryStore]:
    store = open_store(backend_uri)
    with closing(store):
        yield SqlMemoryStore(store)


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[SqlMemoryStore]:
    """One whose files can be looked into."""
    with closing(SqliteDatabase(tmp_path)) as store:
        yield SqlMemoryStore(store)


def found(journal: SqlMemoryStore, name: str) -> StoredMemory:
    memory = journal.find(name)
    assert memory is not None
    return memory


def versions(journal: SqlMemoryStore, memory: int, page: int = 0) -> list[int]:
    return [entry.version for entry in journal.page(memory, page, all_entries=True).entries]


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


def store_pages(journal: SqlMemoryStore, memory: int, pages: Iterable[int]) -> None:
    """Store a pattern in each of these pages, in one transaction."""
    entries = [Entry(page=page, version=1, written=1, values=some(page)) for page in pages]
    images = [Image(page=page, version=1, content=b"weights") for page in pages]
    counts = dict.fromkeys(pages, 1)
    change = Change(memory=memory, version=1, patterns=len(counts), pages=counts, entries=entries, images=images)
    journal.commit([change])


def take_many(journal: SqlMemoryStore, memory: int, tags: Iterable[str]) -> None:
    """Takes snapshots in one transaction: each in its own would wait for the disk."""
    with journal._change() as cursor:
        for tag in tags:
            snapshot_rows.snapshot(cursor, memory, tag, now_s=0.0)


@contextmanager
def counted(store: SqliteDatabase) -> Iterator[list[int]]:
    """The steps that SQLite's machine takes for each statement in the block."""
    steps: list[int] = []

    def note(event: dict[str, Any]) -> None:
        steps.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])

    store._connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, note)
    try:
        yield steps
    finally:
        store._connection.trace_v2(0, None)


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


def test_what_exports_left_when_their_server_died_is_forgotten(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    store(journal, memory.id, 1)
    take_many(journal, memory.id, [".old", "kept"])  # as if in 1970
    journal.snapshot(memory.id, ".new")
    assert len(list(journal.forget_leftovers())) == 1
    with pytest.raises(SnapshotNotFound):
        journal.load_snapshot("a", ".old")
    assert (journal.load_snapshot("a", ".new").version, journal.load_snapshot("a", "kept").version) == (1, 1)


def test_a_memory_with_many_snapshots_is_gone_at_once_and_forgotten_in_portions(
    on_disk: SqlMemoryStore, tmp_path: Path
) -> None:
    memory = made(on_disk, "a")
    for number in range(1, PARTS_LIMIT + 2):
        store(on_disk, memory.id, number, page=number)
        on_disk.snapshot(memory.id, f"t{number}")
    assert on_disk.begin_delete(memory.id)
    assert on_disk.find("a") is None
    with pytest.raises(SnapshotNotFound):
        on_disk.load_snapshot("a", "t1")
    again = made(on_disk, "a")
    on_disk.snapshot(again.id, "t1")
    portions = 1
    while on_disk.shorten(memory.id, pages=16):
        portions += 1
    assert portions > PARTS_LIMIT // 16
    with inspect_store(uri_of(tmp_path)) as view:
        assert not list(find_faults(view, Counter()))
    on_disk.forget_unreached(memory.id)
    assert found(on_disk, "a").id == again.id
    assert [one.tag for one in on_disk.snapshots(again.id)] == ["t1"]
    assert not any(some(number).tobytes() in bytes_in(tmp_path) for number in range(1, PARTS_LIMIT + 2))


@pytest.mark.parametrize("what", ["restore", "forget_snapshot"])
def test_what_takes_many_pages_away_does_not_do_so_in_one_transaction(tmp_path: Path, what: str) -> None:
    with closing(SqliteDatabase(tmp_path)) as database:
        journal, begun = SqlMemoryStore(database), list[int]()
        memory, pages = made(journal, "a"), range(1, 201)
        journal.snapshot(memory.id, "empty")
        store_pages(journal, memory.id, pages)
        journal.snapshot(memory.id, "full")
        journal.restore(memory.id, "empty")  # what was shared stays
        assert versions(journal, journal.load_snapshot("a", "full").id, 200) == [1]
        if what == "restore":
            journal.restore(memory.id, "full")
            journal.forget_snapshot(memory.id, "full")
        with counted(database) as steps:
            plain = database.transaction

            def noted(*, reserved: bool = False) -> AbstractContextManager[Cursor]:
                begun.append(len(steps))
                return plain(reserved=reserved)

            database.transaction = noted  # type: ignore[method-assign,assignment]
            getattr(journal, what)(memory.id, "empty" if what == "restore" else "full")
        work = [sum(steps[start:end]) for start, end in pairwise([*begun, len(steps)])]
        assert max(work) < sum(work) / 4
        assert not found(journal, "a").pages
        left = bytes_in(tmp_path)
        assert not any(some(number).tobytes() in left for number in pages)
    with inspect_store(uri_of(tmp_path)) as view:
        assert not list(find_faults(view, Counter()))


def test_a_restore_that_was_cut_short_is_whole_and_what_it_left_is_forgotten_in_portions(
    on_disk: SqlMemoryStore, tmp_path: Path
) -> None:
    memory, pages = made(on_disk, "a"), range(2, PARTS_LIMIT + 2)
    store(on_disk, memory.id, 1, page=1)
    on_disk.snapshot(memory.id, "t")
    store_pages(on_disk, memory.id, pages)
    assert on_disk.begin_restore(memory.id, "t")[1]  # and no more of it
    assert [page.number for page in found(on_disk, "a").pages] == [1]
    assert len(list(on_disk.forget_leftovers())) > PARTS_LIMIT // LEFTOVER_PAGES
    left = bytes_in(tmp_path)
    assert not any(some(number).tobytes() in left for number in pages)
    assert versions(on_disk, memory.id, 1) == [1]


def test_a_deletion_that_was_cut_short_is_gone_on_with_in_portions(on_disk: SqlMemoryStore, tmp_path: Path) -> None:
    memory, beside = made(on_disk, "a"), made(on_disk, "b")
    for number in range(1, PARTS_LIMIT + 3):
        store(on_disk, memory.id, number, page=number)
    store(on_disk, beside.id, 100)
    on_disk.snapshot(memory.id, "t")
    assert on_disk.begin_delete(memory.id)
    coming = on_disk.begin_import(replace(memory, name="c"))  # as an import that is under way
    assert len(list(on_disk.forget_leftovers())) > PARTS_LIMIT // LEFTOVER_PAGES
    assert not any(some(number).tobytes() in bytes_in(tmp_path) for number in range(1, PARTS_LIMIT + 3))
    assert versions(on_disk, beside.id) == [100]
    assert on_disk.end_import(coming, "c").id == coming
    assert list(on_disk.forget_leftovers()) == []


def test_an_import_that_was_begun_a_day_ago_is_forgotten(
    journal: SqlMemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = made(journal, "a")
    coming = journal.begin_import(replace(memory, name="c"))
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 2 * import_rows.ABANDONED_AFTER_S)
    assert list(journal.forget_leftovers())
    with pytest.raises(AssertionError):
        journal.end_import(coming, "c")


def test_a_change_of_many_pages_comes_by_way_of_a_draft_all_at_once(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    for number in range(4):
        store(journal, memory.id, number + 1, page=number, image=b"old")
    journal.snapshot(memory.id, "t")
    draft = journal.begin_import(replace(memory, name="c"))
    for version, number in ((5, 1), (6, 4)):
        store(journal, draft, version, page=number, image=b"new")
    assert [row.number for row in found(journal, "a").pages] == [0, 1, 2, 3]
    last = Entry(page=3, version=6, written=6, values=some(7))
    journal.end_change(
        draft, Change(memory=memory.id, version=6, patterns=5, dropped=[0], pages={3: 2}, entries=[last])
    )
    after = found(journal, "a")
    assert (after.version, after.patterns) == (6, 5)
    assert [(row.number, row.patterns) for row in after.pages] == [(1, 1), (2, 1), (3, 2), (4, 1)]
    assert [versions(journal, memory.id, number) for number in (1, 2, 3, 4)] == [[5], [3], [4, 6], [6]]
    assert list(journal.forget_leftovers())
    assert [versions(journal, memory.id, number) for number in (1, 2, 3, 4)] == [[5], [3], [4, 6], [6]]
    kept = journal.load_snapshot("a", "t")
    assert [versions(journal, kept.id, number) for number in range(4)] == [[1], [2], [3], [4]]
    journal.restore(memory.id, "t")
    assert [versions(journal, memory.id, number) for number in range(5)] == [[1], [2], [3], [4], []]


def test_a_change_of_many_pages_that_is_given_up_leaves_the_memory_as_it_was(journal: SqlMemoryStore) -> None:
    memory = made(journal, "a")
    store(journal, memory.id, 1)
    draft = journal.begin_import(replace(memory, name="c"))
    store(journal, draft, 2)
    journal.abandon(draft)
    assert list(journal.forget_leftovers())
    assert versions(journal, memory.id) == [1]
    assert versions(journal, draft) == []
