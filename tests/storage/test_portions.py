"""Changes of many pages in the backend store: in portions, and whole wherever they are cut short."""

import time
from collections import Counter
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.support.stored_memories import bytes_in, counted, found, made, some, store, store_pages, take_many, versions

from attractor_server.errors import SnapshotNotFound
from attractor_server.memories.records import Change, Entry
from attractor_server.memories.store import LEFTOVER_PAGES
from attractor_server.storage.backends.opening import inspect_store
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.database import Cursor
from attractor_server.storage.memory_store import PARTS_LIMIT, SqlMemoryStore
from attractor_server.storage.tables import imports as import_rows
from attractor_server.storage.verify import find_faults


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
