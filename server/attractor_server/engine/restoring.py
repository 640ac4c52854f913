"""Restoring: memories come back from the backend store when they are first needed."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from attractor_server.engine.batch import Loaded, joined, lanes_of
from attractor_server.engine.faults import fault
from attractor_server.engine.keeper import Keeper
from attractor_server.engine.page import Page
from attractor_server.engine.returning import found
from attractor_server.engine.work import Erased, Floats, Job, Outcome, Record, Stored
from attractor_server.engine.writing import finite_rows, written
from attractor_server.errors import ServerError, StoreDamaged
from attractor_server.storage.records import Entry, PageRow, StoredMemory, StoredPage


def restored(loaded: Loaded, jobs: Sequence[Job]) -> Mapping[Job, Outcome | ServerError]:
    """Brings the memories of these jobs back; the jobs whose memories did not come, each with the cause.

    With them the repeats of what the store has, whose first answer was lost with a connection to it.
    """
    settled: dict[Job, Outcome | ServerError] = {}
    for lane in lanes_of(jobs):
        try:
            assert loaded.keeper is not None
            settled |= _repeats(lane.jobs, _restore(loaded, loaded.keeper, lane.memory))
        except ServerError as error:
            settled |= dict.fromkeys(lane.jobs, error)
        except Exception as error:
            settled |= dict.fromkeys(lane.jobs, fault(error, "restoring", 1))
    return settled


def _repeats(jobs: Sequence[Job], stored: StoredMemory) -> Mapping[Job, Outcome]:
    told = {(one.client, one.sequence): one for one in stored.told}
    return {
        job: (Erased if first.erases else Stored)(first.version, first.patterns)
        for job in jobs
        if job.sequence and (first := told.get((job.client_id, job.sequence))) is not None
    }


def _restore(loaded: Loaded, keeper: Keeper, memory: Record) -> StoredMemory:
    """Makes the memory as the store has it, and returns what that is.

    Sealed pages are read when a batch needs them. A page with entries of its own is written anew: those of a rewritten
    page together, others in the groups in which they were written.

    Raises:
        MemoryNotFound: the store has it no more.
        ServerError: the store cannot be read, or is damaged.
    """
    stored = found(keeper, memory)
    pages = list[Page]()
    try:
        for row in stored.pages:
            pages.append(Page(number=row.number))
            _bring_back(loaded, keeper, memory, pages[-1], row)
    except BaseException:
        for page in pages:
            loaded.bank.release(page)
        raise
    memory.pages[:] = pages
    memory.version, memory.patterns = stored.version, stored.patterns
    memory.at_hand = True
    return stored


def _bring_back(loaded: Loaded, keeper: Keeper, memory: Record, page: Page, row: PageRow) -> None:
    if row.image:
        loaded.shelf.expect(page, memory.id)
        page.patterns = row.patterns
    if row.entries:
        replay(loaded, memory, page, keeper.page(memory.id, row.number))
    page.patterns = row.patterns


def replay(loaded: Loaded, memory: Record, page: Page, stored: StoredPage) -> None:
    """Sends a page's entries through the writing loop."""
    settings = memory.settings
    if settings.write == "rewrite" and stored.image is None:
        values = joined([entry.values for entry in stored.entries])
        _write(loaded, memory, page, values)
        if not settings.seals(len(values)):
            page.kept = values.copy()
        return
    before = page.patterns - sum(len(entry.values) for entry in stored.entries)
    page.patterns = max(0, before)
    for values in _groups(stored.entries):
        _write(loaded, memory, page, values)


def _groups(entries: Sequence[Entry]) -> Iterator[Floats]:
    for _, together in groupby(entries, key=attrgetter("written")):
        yield joined([entry.values for entry in together])


def _write(loaded: Loaded, memory: Record, page: Page, values: Floats) -> None:
    fast = written(loaded, [page], [values], [page.patterns])
    if not finite_rows(fast)[0]:
        raise StoreDamaged(f"memory {memory.name!r}: its patterns, written anew, left finite numbers")
    for error in loaded.bank.publish([page], fast).values():
        raise error
    page.patterns += len(values)
