"""Restoring: memories come back from the backend store when they are first needed, those of a batch together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from time import perf_counter

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.engine.batch import MemoryBatch, ModelState, chunks, concatenate, group_by_memory, run_to_end
from attractor_server.engine.bisection import by_halves
from attractor_server.engine.operations.store import (
    add_in_parts,
    find_finite_rows,
    fit_frames,
    publish,
    select_rows,
    write_anew,
)
from attractor_server.errors import NumberReused, ServerError, StoreDamaged, StoreFailed
from attractor_server.memories.ledger import StoredAcks, look_back
from attractor_server.memories.memory import MemoryRecord, find_stored, reload
from attractor_server.memories.outcomes import Floats, Outcome
from attractor_server.memories.page import Page
from attractor_server.memories.records import Entry, StoredMemory, StoredPage, WriteAck
from attractor_server.memories.store import MemoryStore
from attractor_server.scheduling.failures import log_fault
from attractor_server.scheduling.jobs import Job


@dataclass(eq=False)
class _Coming:
    """A memory on its way back, which nobody sees before it has come."""

    memory: MemoryRecord
    stored: StoredMemory
    pages: list[Page] = field(default_factory=list)
    replays: "list[_Replay]" = field(default_factory=list)


@dataclass(eq=False)
class _Replay:
    """Groups of patterns (n, d) that a page is written with once more, one after another."""

    memory: MemoryRecord
    page: Page
    groups: Sequence[Floats]
    keeps: bool
    """The page keeps its patterns at hand: there may be more to come"""

    @property
    def framed(self) -> bool:
        """Whether the page gets frames of its first group, or has them."""
        return self.memory.settings.framed


def restore_memories(state: ModelState, jobs: Sequence[Job]) -> Mapping[Job, Outcome | ServerError]:
    """Bring the memories of these jobs back; return the jobs whose memories did not come, each with the cause.

    With them the repeats of what the store has, whose first answer was lost with a connection to it.
    """
    if not jobs:
        return {}
    started_s, batches = perf_counter(), group_by_memory(jobs)
    with state.recorder.span("restore"):
        settled = _restore(state, batches)
    state.recorder.record_restores(state.model.name, len(batches), perf_counter() - started_s)
    return settled


def _restore(state: ModelState, batches: Sequence[MemoryBatch]) -> Mapping[Job, Outcome | ServerError]:
    settled: dict[Job, Outcome | ServerError] = {}
    coming: dict[MemoryBatch, _Coming] = {}
    for batch in batches:
        try:
            assert state.store is not None
            coming[batch] = _read(state, state.store, batch.memory)
        except ServerError as error:
            settled |= dict.fromkeys(batch.jobs, error)
        except Exception as error:
            settled |= dict.fromkeys(batch.jobs, log_fault(error, "restoring", 1))
    failed = _write_anew(state, [one for memory in coming.values() for one in memory.replays])
    for batch, one in coming.items():
        if (cause := next((failed[replay] for replay in one.replays if replay in failed), None)) is not None:
            for page in one.pages:
                state.bank.release(page)
            settled |= dict.fromkeys(batch.jobs, cause)
            continue
        memory, stored = one.memory, one.stored
        memory.pages[:], memory.at_hand = one.pages, True
        memory.version, memory.patterns = stored.version, stored.patterns
        settled |= _match_repeats(batch.jobs, stored.told)
    return settled


def replay(state: ModelState, memory: MemoryRecord, page: Page, stored: StoredPage) -> None:
    """Send a page's entries through the writing loop.

    Raises:
        ServerError: they cannot be written.
    """
    for error in _write_anew(state, [_make_replay(memory, page, stored)]).values():
        raise error


def find_repeats(state: ModelState, jobs: Sequence[Job]) -> Mapping[Job, Outcome | ServerError]:
    """Return what the store knows of jobs that may be repeats; those that it does not know are new."""
    settled: dict[Job, Outcome | ServerError] = {}
    for job in jobs:
        assert state.store is not None
        try:
            acks = state.store.find_acks(job.memory.id, job.client_id)
            first = look_back(acks, job.client_id, job.sequence, job.digest)
        except Exception as error:
            settled[job] = error if isinstance(error, ServerError) else log_fault(error, "look for repeats", 1)
        else:
            if first is not None:
                settled[job] = first
    return settled


def _match_repeats(jobs: Sequence[Job], acks: Sequence[WriteAck]) -> Mapping[Job, Outcome | ServerError]:
    """Return the first answers to those jobs that the store has applied before."""
    settled: dict[Job, Outcome | ServerError] = {}
    applied = StoredAcks(acks)
    for job in jobs:
        try:
            if job.sequence and (first := applied.find(job.client_id, job.sequence, job.digest)) is not None:
                settled[job] = first
        except NumberReused as error:
            settled[job] = error
    return settled


def _read(state: ModelState, store: MemoryStore, memory: MemoryRecord) -> _Coming:
    """Return the memory's contents in the store.

    Sealed pages are read when a batch needs them. A page with entries of its own is to be written anew.

    Raises:
        MemoryNotFound: the store has it no more.
        StoreFailed: it is of another model there, by a call whose answer was lost; the record knows it from now on.
        ServerError: the store cannot be read, or is damaged.
    """
    coming = _Coming(memory, stored_memory := find_stored(store, memory))
    if stored_memory.model_digest != state.model.digest:
        reload(memory, stored_memory)
        raise StoreFailed(f"memory {memory.name!r} is of model {stored_memory.model} by now; try again in a moment")
    try:
        for row in coming.stored.pages:
            coming.pages.append(page := Page(number=row.number, patterns=row.patterns, home=state.bank))
            stored = store.page(memory.id, row.number) if row.entries else None
            if row.image and (stored is None or stored.image is not None):
                state.spill.expect(page, memory.id, partial(_load_anew, state, memory))
            if stored is not None:
                coming.replays.append(_make_replay(memory, page, stored))
    except BaseException:
        for page in coming.pages:
            state.bank.release(page)
        raise
    return coming


def _make_replay(memory: MemoryRecord, page: Page, stored: StoredPage) -> _Replay:
    """Group a page's entries as they are written again: of a rewritten page all at once, else as they were."""
    values = concatenate([entry.values for entry in stored.entries])
    if memory.settings.write == "rewrite" and stored.image is None:
        page.patterns = 0
        return _Replay(memory, page, [values], keeps=not memory.settings.seals(len(values)))
    page.patterns = max(0, page.patterns - len(values))
    return _Replay(memory, page, list(_group_entries(stored.entries)), keeps=False)


def _load_anew(state: ModelState, memory: MemoryRecord, stored: StoredPage) -> Tensors:
    """Compute the weights of a page by its entries alone, each (1, *shape).

    Raises:
        StoreDamaged: they are not finite.
    """
    one, fast, before = _make_replay(memory, Page(), stored), state.copy_pages([Page()], 1), 0
    for values in one.groups:
        fast = fit_frames(state, fast, [values], [one.framed and not before])
        fast = run_to_end(add_in_parts(state, fast, [values], [before], framed=one.framed))
        before += len(values)
    if not all(find_finite_rows(fast)):
        raise _not_finite_error(memory)
    return fast


def _not_finite_error(memory: MemoryRecord) -> StoreDamaged:
    return StoreDamaged(f"memory {memory.name!r}: its patterns, written anew, left finite numbers")


def _group_entries(entries: Sequence[Entry]) -> Iterator[Floats]:
    for _, together in groupby(entries, key=attrgetter("written")):
        yield concatenate([entry.values for entry in together])


def _write_anew(state: ModelState, replays: Sequence[_Replay]) -> Mapping[_Replay, ServerError]:
    """Write these pages side by side; return those that could not be written, each with the cause."""
    failed: dict[_Replay, ServerError] = {}

    def fail(part: Sequence[_Replay], error: Exception) -> None:
        failed.update(dict.fromkeys(part, log_fault(error, "restoring", len(part))))

    for turn in range(max((len(one.groups) for one in replays), default=0)):
        ready = [one for one in replays if turn < len(one.groups) and one not in failed]
        for part in chunks(ready, partial(_size, turn=turn), state.limit):
            run_to_end(by_halves(part, lambda some: failed.update(_write(state, some, turn)), fail))  # noqa: B023 - here
    return failed


def _size(one: _Replay, *, turn: int) -> int:
    return len(one.groups[turn])


def _write(state: ModelState, replays: Sequence[_Replay], turn: int) -> Mapping[_Replay, ServerError]:
    pages, values = [one.page for one in replays], [one.groups[turn] for one in replays]
    away = state.bank.bring(pages)
    failed = {one: away[one.page] for one in replays if one.page in away}
    rows = [row for row, page in enumerate(pages) if page not in away]
    if not rows:
        return failed
    fast = write_anew(
        state,
        [pages[row] for row in rows],
        [values[row] for row in rows],
        [pages[row].patterns for row in rows],
        [replays[row].framed for row in rows],
    )
    finite = [at for at, ok in enumerate(find_finite_rows(fast)[: len(rows)]) if ok]
    refused = publish(state, [pages[rows[at]] for at in finite], select_rows(fast, finite))
    for at, row in enumerate(rows):
        one, page = replays[row], pages[row]
        if at not in finite:
            failed[one] = _not_finite_error(one.memory)
        elif page in refused:
            failed[one] = refused[page]
        else:
            page.patterns += len(values[row])
            page.kept = values[row].copy() if one.keeps else None
    return failed
