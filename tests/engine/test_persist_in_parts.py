"""Changes of many pages are kept part by part beside their memory, and are its own all at once, or never."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tests.support.engine_bench import Values
from tests.support.tiny_models import IMAGE, able_model

from attractor_server.engine.engine import Engine
from attractor_server.engine.operations import matching
from attractor_server.errors import MemoryNotFound, ServerError, StoreFailed
from attractor_server.fields import Layout
from attractor_server.memories.filters import Condition, Filter
from attractor_server.memories.items import ByFilter, ItemChoice, OnConflict
from attractor_server.memories.memory import MemoryRecord, record_of
from attractor_server.memories.outcomes import Erased, Outcome, Recalled, Stored, Unfinished
from attractor_server.memories.records import Call, Change, Item, NewMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.storage.backends.opening import inspect_store
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.memory_store import SqlMemoryStore
from attractor_server.storage.verify import find_faults

Doubles = np.ndarray[tuple[int, int], np.dtype[np.float64]]
MODEL = able_model("able", IMAGE)
PAGES = 150
STREAM = MemorySettings(page_patterns=2, write="stream")
BARE = MemorySettings(page_patterns=2, write="stream", retain="open_page")


def some(count: int, seed: int = 0) -> Values:
    return np.random.default_rng(seed).random((count, IMAGE.size), dtype=np.float32)


class Kept:
    """Engines on one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = SqliteDatabase(folder)
        self.journal = SqlMemoryStore(self.database)
        self.loop = asyncio.new_event_loop()
        self.engine = self.started()
        self.parts: list[int] = []
        """Pages that the store was given in each part of what is done in parts"""
        plain = self.journal.add_pages

        def counted(change: Change) -> None:
            self.parts.append(len(change.pages))
            plain(change)

        self.journal.add_pages = counted  # type: ignore[method-assign]

    def close(self) -> None:
        self.database.close()
        self.loop.close()

    def started(self) -> Engine:
        return Engine([MODEL], bank_bytes=16 << 20, store=self.journal, part_s=0.0)

    def made(self, name: str, settings: MemorySettings) -> MemoryRecord:
        new = NewMemory(name=name, model="able", model_digest=MODEL.digest, settings=settings)
        record = record_of(self.journal.create([new])[0])
        assert self.run(self.job(Operation.STORE, record, some(2 * PAGES))) == Stored(1, 2 * PAGES)
        return record

    def job(self, operation: Operation, memory: MemoryRecord, values: Values) -> Job:
        steps = MODEL.steps if operation is Operation.QUERY else 0
        return Job(operation=operation, memory=memory, future=self.loop.create_future(), values=values, steps=steps)

    def named(self, name: str, settings: MemorySettings) -> MemoryRecord:
        """A memory whose patterns have their numbers as ids, and as payloads."""
        new = NewMemory(name=name, model="able", model_digest=MODEL.digest, settings=settings)
        record = record_of(self.journal.create([new])[0])
        assert self.run(self.store(record, some(2 * PAGES), range(2 * PAGES))) == Stored(1, 2 * PAGES)
        return record

    def store(
        self, memory: MemoryRecord, values: Values, numbers: Iterable[int], on_conflict: OnConflict = "append"
    ) -> Job:
        job = self.job(Operation.STORE, memory, values)
        job.items = [Item(id=str(n), payload=b'{"n": %d}' % n, json=True) for n in numbers]
        job.on_conflict = on_conflict
        return job

    def erase(self, memory: MemoryRecord, chosen: ItemChoice) -> Job:
        call = Call("c", memory.id, "EraseItems", memory.name, 1)
        return Job(operation=Operation.ERASE, memory=memory, future=self.loop.create_future(), chosen=chosen, call=call)

    def run(self, job: Job) -> Outcome | ServerError:
        return self.engine.run([job])[0]

    def in_parts(self, job: Job, *, stops: int = 10_000) -> Outcome | ServerError:
        """The outcome, or that it is Unfinished after so many stops."""
        job.cut = True
        while isinstance(outcome := self.run(job), Unfinished) and (stops := stops - 1):
            found = self.journal.find(job.memory.name)
            assert found is not None
            assert not job.memory.at_hand or (found.version == 1) is (job.memory.version == 1)
        return outcome

    def recall(self, memory: MemoryRecord) -> Values:
        found = self.run(self.job(Operation.QUERY, memory, some(2 * PAGES)))
        assert isinstance(found, Recalled)
        return found.values

    def restarted(self, memory: MemoryRecord) -> MemoryRecord:
        self.engine = self.started()
        stored = self.journal.find(memory.name)
        assert stored is not None
        return record_of(stored)

    def contents(self, memory: MemoryRecord) -> Mapping[int, tuple[int, bytes, bytes]]:
        """Of each page, by its number: patterns, weights, and what was stored."""
        found = self.journal.find(memory.name)
        assert found is not None
        pages = {
            row.number: (row.patterns, self.journal.page(found.id, row.number, all_entries=True)) for row in found.pages
        }
        return {
            number: (
                patterns,
                b"" if page.image is None else page.image.content,
                b"".join(entry.values.tobytes() for entry in page.entries),
            )
            for number, (patterns, page) in pages.items()
        }

    def has(self, values: Values) -> bool:
        """Whether one of the patterns is in a file of the store."""
        content = b"".join(path.read_bytes() for path in self.folder.iterdir())
        return any(one.tobytes() in content for one in values)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with closing(Kept(tmp_path)) as made:
        yield made


@pytest.mark.parametrize("settings", [STREAM, BARE], ids=["stream", "bare"])
def test_a_store_of_many_pages_is_kept_in_parts_and_is_what_it_is_at_once(kept: Kept, settings: MemorySettings) -> None:
    cut, whole = kept.made("cut", settings), kept.made("whole", settings)
    more = some(2 * PAGES - 1, seed=1)
    outcome = kept.in_parts(kept.job(Operation.STORE, cut, more))
    assert isinstance(outcome, Stored)
    assert sum(kept.parts) >= PAGES - 1
    assert max(kept.parts) <= 64
    assert outcome == kept.run(kept.job(Operation.STORE, whole, more))
    assert kept.contents(cut).keys() == kept.contents(whole).keys()
    for one, other in zip(kept.contents(cut).values(), kept.contents(whole).values(), strict=True):
        assert one[0] == other[0]
        assert one[2] == other[2]
        np.testing.assert_allclose(np.frombuffer(one[1], np.float32), np.frombuffer(other[1], np.float32), atol=1e-5)
    alive = kept.recall(cut)
    np.testing.assert_allclose(alive, kept.recall(whole), atol=1e-4)
    np.testing.assert_allclose(kept.recall(kept.restarted(cut)), alive, atol=1e-4)
    assert list(kept.journal.forget_leftovers()) == []


def test_an_erase_in_many_pages_is_kept_in_parts_and_nothing_of_it_stays(kept: Kept) -> None:
    cut, whole = kept.made("cut", STREAM), kept.made("whole", STREAM)
    given = some(2 * PAGES)
    gone = np.concatenate([given[:PAGES], some(20, seed=2)])  # whole pages, and strangers for the eraser
    outcome = kept.in_parts(kept.job(Operation.ERASE, cut, gone))
    assert isinstance(outcome, Erased)
    assert len(kept.parts) > 2
    assert outcome == kept.run(kept.job(Operation.ERASE, whole, gone))
    assert {n: one[0] for n, one in kept.contents(cut).items()} == {
        n: one[0] for n, one in kept.contents(whole).items()
    }
    alive = kept.recall(cut)
    np.testing.assert_allclose(alive, kept.recall(whole), atol=1e-4)
    np.testing.assert_allclose(kept.recall(kept.restarted(cut)), alive, atol=1e-4)
    assert list(kept.journal.forget_leftovers()) == []
    kept.journal.purge()
    assert not kept.has(given[:PAGES])
    with inspect_store(uri_of(kept.folder)) as view:
        assert not list(find_faults(view, Counter()))


REPLACED = [*range(0, 2 * PAGES, 3), *range(2 * PAGES, 2 * PAGES + 5)]
"""Patterns of nearly all pages, and new ones"""


@pytest.mark.parametrize("settings", [STREAM, replace(STREAM, write="rewrite")], ids=["stream", "rewrite"])
def test_a_replacement_in_many_pages_is_kept_in_parts_and_is_what_it_is_at_once(
    kept: Kept, settings: MemorySettings
) -> None:
    cut, whole = kept.named("cut", settings), kept.named("whole", settings)
    new = some(len(REPLACED), seed=3)
    outcome = kept.in_parts(kept.store(cut, new, REPLACED, "replace"))
    assert outcome == Stored(2, 2 * PAGES + 5)
    assert len(kept.parts) > 2
    assert outcome == kept.run(kept.store(whole, new, REPLACED, "replace"))
    assert {n: (one[0], one[2]) for n, one in kept.contents(cut).items()} == {
        n: (one[0], one[2]) for n, one in kept.contents(whole).items()
    }
    alive = kept.recall(cut)
    np.testing.assert_allclose(alive, kept.recall(whole), atol=1e-4)
    np.testing.assert_allclose(kept.recall(kept.restarted(cut)), alive, atol=1e-4)
    assert [one.item.id for one in kept.journal.find_items(cut.id, ["0", "3"])] == ["0", "3"]
    assert list(kept.journal.forget_leftovers()) == []
    with inspect_store(uri_of(kept.folder)) as view:
        assert not list(find_faults(view, Counter()))


def test_a_replacement_that_fails_in_a_late_part_leaves_the_memory_as_it_was(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, bank = kept.named("a", STREAM), kept.engine._states[MODEL.digest].bank
    before, contents, free = kept.recall(memory), kept.contents(memory), len(bank._free)
    plain, new = kept.journal.add_pages, some(len(REPLACED), seed=3)

    def failing(change: Change) -> None:
        if len(kept.parts) > 1:
            raise StoreFailed("the store failed")
        plain(change)

    monkeypatch.setattr(kept.journal, "add_pages", failing)
    assert isinstance(kept.in_parts(kept.store(memory, new, REPLACED, "replace")), StoreFailed)
    assert len(bank._free) == free
    assert kept.contents(memory) == contents
    assert_array_equal(kept.recall(memory), before)
    monkeypatch.setattr(kept.journal, "add_pages", plain)
    list(kept.journal.forget_leftovers())
    assert isinstance(kept.in_parts(kept.store(memory, new, REPLACED, "replace")), Stored)


def test_an_erase_by_payload_in_many_pages_is_kept_in_parts_and_noted_once(kept: Kept) -> None:
    cut, whole = kept.named("cut", STREAM), kept.named("whole", STREAM)
    chosen = ByFilter(Filter([Condition(["n"], "lt", PAGES)]))
    outcome = kept.in_parts(kept.erase(cut, chosen))
    assert outcome == Erased(2, PAGES, PAGES)
    assert len(kept.parts) > 1
    assert kept.run(kept.erase(whole, chosen)) == outcome
    assert kept.contents(cut).keys() == kept.contents(whole).keys()
    np.testing.assert_allclose(kept.recall(cut), kept.recall(whole), atol=1e-4)
    for again in (cut, kept.restarted(cut)):
        assert kept.run(kept.erase(again, chosen)) == Erased(2, PAGES)
    kept.journal.purge()
    assert not kept.has(some(2 * PAGES)[:PAGES])
    with inspect_store(uri_of(kept.folder)) as view:
        assert not list(find_faults(view, Counter()))


@pytest.mark.parametrize("operation", [Operation.STORE, Operation.ERASE])
def test_what_fails_in_a_late_part_leaves_the_memory_as_it_was(
    kept: Kept, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, bank = kept.made("a", STREAM), kept.engine._states[MODEL.digest].bank
    before, contents, free = kept.recall(memory), kept.contents(memory), len(bank._free)
    values = some(2 * PAGES, seed=0 if operation is Operation.ERASE else 1)
    plain = kept.journal.add_pages

    def failing(change: Change) -> None:
        if len(kept.parts) > 1:
            raise StoreFailed("the store failed")
        plain(change)

    monkeypatch.setattr(kept.journal, "add_pages", failing)
    assert isinstance(kept.in_parts(kept.job(operation, memory, values)), StoreFailed)
    assert len(kept.parts) == 2
    assert len(bank._free) == free
    assert kept.contents(memory) == contents
    assert_array_equal(kept.recall(memory), before)
    assert list(kept.journal.forget_leftovers())  # what there was of it
    monkeypatch.setattr(kept.journal, "add_pages", plain)
    assert isinstance(kept.in_parts(kept.job(operation, memory, values)), Stored | Erased)


@pytest.mark.parametrize("operation", [Operation.STORE, Operation.ERASE])
def test_a_change_whose_last_commit_fails_is_not_made(
    kept: Kept, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, free = kept.made("a", STREAM), len(kept.engine._states[MODEL.digest].bank._free)
    contents = kept.contents(memory)
    values = some(2 * PAGES, seed=0 if operation is Operation.ERASE else 1)

    def failing(draft: int, change: Change) -> None:
        raise StoreFailed("the store failed")

    monkeypatch.setattr(kept.journal, "end_change", failing)
    assert isinstance(kept.in_parts(kept.job(operation, memory, values)), StoreFailed)
    monkeypatch.undo()
    assert kept.contents(memory) == contents
    list(kept.journal.forget_leftovers())
    assert kept.contents(memory) == contents
    assert isinstance(kept.in_parts(kept.job(operation, memory, values)), Stored | Erased)
    assert free < len(kept.engine._states[MODEL.digest].bank._free) + 3 * PAGES


@pytest.mark.parametrize("operation", [Operation.STORE, Operation.ERASE])
def test_a_memory_that_is_deleted_between_the_parts_leaves_nothing_of_the_change(
    kept: Kept, operation: Operation
) -> None:
    memory, bank = kept.made("a", STREAM), kept.engine._states[MODEL.digest].bank
    free = len(bank._free)
    job = kept.job(operation, memory, some(2 * PAGES, seed=0 if operation is Operation.ERASE else 1))
    while len(kept.parts) < 2:
        assert isinstance(kept.in_parts(job, stops=1), Unfinished)
    memory.deleted = True
    assert isinstance(kept.run(job), MemoryNotFound)
    assert len(bank._free) == free
    assert list(kept.journal.forget_leftovers())
    assert len(kept.contents(memory)) == PAGES


def test_what_matches_in_many_pages_is_searched_in_another_thread_and_is_what_matches_at_once(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, threads = kept.made("a", STREAM), set[threading.Thread]()
    plain = matching.compute_distances

    def noted(layout: Layout, values: Values, others: Values) -> Doubles:
        threads.add(threading.current_thread())
        return plain(layout, values, others)

    def search() -> Job:
        job = kept.job(Operation.QUERY, memory, some(40))
        job.matches = 1
        return job

    whole = kept.run(search())
    monkeypatch.setattr(matching, "compute_distances", noted)
    monkeypatch.setattr(matching, "AT_A_TIME", 2 * IMAGE.size)  # so that it is searched pattern by pattern
    cut = kept.in_parts(search())
    assert threads
    assert threading.current_thread() not in threads
    assert isinstance(whole, Recalled)
    assert isinstance(cut, Recalled)
    assert whole.matches is not None
    assert cut.matches is not None
    assert_array_equal(cut.matches.values, whole.matches.values)
    np.testing.assert_allclose(cut.matches.distances, whole.matches.distances, atol=1e-5)
    assert cut.matches.items == whole.matches.items


def test_a_search_that_fails_in_another_thread_is_the_error_of_its_request(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = kept.made("a", STREAM)
    job = kept.job(Operation.QUERY, memory, some(40))
    job.matches = 1

    def failing(memory: int, number: int, *, all_entries: bool = False) -> None:
        raise StoreFailed("the store failed")

    monkeypatch.setattr(kept.journal, "page", failing)
    assert isinstance(kept.in_parts(job), StoreFailed)
