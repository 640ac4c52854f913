"""Routing of each cue to the page of its memory that answers it: all pages' energies in few calls, before any reading.

Where two pages are about as probable, both are read.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attractor_server.energy.familiarity import choice_of
from attractor_server.engine import compute
from attractor_server.engine.batch import PART_LOOKS, MemoryBatch, ModelState, Stops, chunks
from attractor_server.engine.bisection import by_halves
from attractor_server.errors import ServerError
from attractor_server.memories.outcomes import Floats
from attractor_server.memories.page import Page
from attractor_server.scheduling.failures import log_fault
from attractor_server.scheduling.jobs import Job

CHOICES = 1 << 17
"""Energies that are compared at a time where others have their turns in between"""

ENTERED = 1 << 22
"""Values of cues in the frames of all pages that are kept for what comes after"""

ALL = slice(None)

Selection: TypeAlias = slice | NDArray[np.int64]
"""Which patterns of a job"""

PageNumbers: TypeAlias = NDArray[np.int64]


@dataclass(eq=False, slots=True)  # not frozen: that would double what it costs to make one
class PageQuery:
    """Patterns that one page is asked about."""

    page: Page
    number: int
    """Of the page in its memory"""
    among: int
    """Pages that could have been asked"""
    parts: Sequence[tuple[Job, Selection, int]]
    """Each with the number of patterns"""
    size: int
    """Patterns in all of them"""
    routes: "Mapping[Job, Routes] | None" = None
    """Of their jobs, with the cues encoded; None where there was no choice"""
    framed: bool = False
    """The memory's pages have frames"""


@dataclass(frozen=True, eq=False)
class Cues:
    """Patterns (n, d), in user units, and the pages of which one answers each."""

    pages: Sequence[Page]
    values: Floats
    framed: bool
    """The pages have frames"""
    searched: bool = False
    """They are scored in all pages afterwards"""


@dataclass(frozen=True, eq=False)
class Routes:
    """Pages of some cues by their numbers in the memory, (n,) each."""

    x: Tensor
    """The cues, (n, entries), as far as they are the same for all pages: in network units, or what `whiten` takes"""
    page: PageNumbers
    rival: PageNumbers
    lead: Floats
    """Log-odds by which the page is ahead of its rival"""
    contested: NDArray[np.bool_]
    """Where both are to be read"""
    entered: Tensor | None = None
    """(pages, n, entries): the cues in the frames of all pages, where these are kept"""

    def part(self, some: slice) -> "Routes":
        """Return the routes of some of the cues."""
        entered = None if self.entered is None else self.entered[:, some]
        return Routes(self.x[some], self.page[some], self.rival[some], self.lead[some], self.contested[some], entered)

    def settle(self) -> "Routes":
        """Return the routes without contests."""
        return replace(self, contested=np.zeros_like(self.contested))


@dataclass(frozen=True, eq=False)
class RoutedBatch:
    """Page queries that the jobs of some memories come to."""

    rows: Sequence[PageQuery]
    """One for each page"""
    contests: Mapping[Job, Routes]
    """Of jobs of which some patterns are in two rows"""
    failed: Mapping[Job, ServerError]
    """Those whose pages did not come"""


def route_cues(state: ModelState, batches: Sequence[MemoryBatch], *, contests: bool) -> Stops[RoutedBatch]:
    """Make rows of the pages that answer, and with `contests` of those that might.

    A cue whose known entries are held has no contest: it says little of them that the answers would not repeat.
    """
    rows = [_query_whole(batch) for batch in batches if len(batch.memory.pages) < 2]
    several = [batch for batch in batches if len(batch.memory.pages) > 1]
    failed: dict[Job, ServerError] = {}
    contested: dict[Job, Routes] = {}
    cut = any(batch.cut for batch in batches)
    found = yield from choose(state, [make_cues(batch) for batch in several], cut=cut)
    for batch, chosen in zip(several, found, strict=True):
        if isinstance(chosen, ServerError):
            failed |= dict.fromkeys(batch.jobs, chosen)
            continue
        by_job = {
            job: part if contests and (job.known is None or job.pull) else part.settle()
            for job, part in zip(batch.jobs, _split(batch, chosen), strict=True)
        }
        rows += _make_rows(batch, by_job)
        contested |= {job: part for job, part in by_job.items() if part.contested.any()}
    return RoutedBatch(rows, contested, failed)


def choose(state: ModelState, cues: Sequence[Cues], *, cut: bool) -> Stops[Sequence[Routes | ServerError]]:
    """Choose for each of the cues the pages that may answer it; an error where its pages could not be asked.

    Where it is cut, a stop comes after few energies.
    """
    found: dict[Cues, Routes | ServerError] = {}

    def work(part: Sequence[Cues]) -> Stops[None]:
        found.update((yield from _choose_alike(state, part, cut=cut)))

    def fail(part: Sequence[Cues], error: Exception) -> None:
        found.update(dict.fromkeys(part, log_fault(error, "choice of pages", len(part))))

    for framed in (False, True):
        some = [one for one in cues if one.framed is framed]
        for alike in chunks(some, lambda one: len(one.values), limit=len(cues)):
            yield from by_halves(alike, work, fail)
    return [found[one] for one in cues]


def make_cues(batch: MemoryBatch) -> Cues:
    """Gather the patterns of a memory's jobs."""
    searched = all(job.search is not None for job in batch.jobs)
    return Cues(batch.memory.pages, batch.values, batch.memory.settings.framed, searched)


def _query_whole(batch: MemoryBatch) -> PageQuery:
    page = batch.memory.pages[0] if batch.memory.pages else Page()
    parts = [(job, ALL, job.size) for job in batch.jobs]
    size, framed = sum([size for _, _, size in parts]), batch.memory.settings.framed
    return PageQuery(page, 0, 1, parts, size, framed=framed)


def _split(batch: MemoryBatch, chosen: Routes) -> Iterator[Routes]:
    start = 0
    for job in batch.jobs:
        yield chosen.part(slice(start, start := start + job.size))


def _make_rows(batch: MemoryBatch, chosen: Mapping[Job, Routes]) -> Iterator[PageQuery]:
    pages = batch.memory.pages
    among = max(1, sum(page.patterns > 0 for page in pages))
    numbers = [number for one in chosen.values() for number in (one.page, one.rival[one.contested])]
    for number in np.unique(np.concatenate(numbers)).tolist():
        parts = list(_select_parts(chosen, number))
        size, framed = sum([count for _, _, count in parts]), batch.memory.settings.framed
        yield PageQuery(pages[number], number, among, parts, size, chosen, framed)


def _select_parts(chosen: Mapping[Job, Routes], number: int) -> Iterator[tuple[Job, Selection, int]]:
    for job, one in chosen.items():
        places = np.flatnonzero((one.page == number) | (one.contested & (one.rival == number)))
        if len(places):
            whole = len(places) == job.size and not one.contested.any()
            yield job, ALL if whole else places, len(places)


def _choose_alike(state: ModelState, cues: Sequence[Cues], *, cut: bool) -> Stops[dict[Cues, Routes | ServerError]]:
    """Choose pages for cues whose numbers have the same bucket, and whose pages all have frames, or none."""
    grid = state.pad([len(one.values) for one in cues])
    values = state.to_device(grid.spread(np.concatenate([one.values for one in cues])))
    x = state.model.prepare(values) if cues[0].framed else state.model.encode(values)
    calibration = state.model.calibration_of(framed=cues[0].framed)
    kept = cues[0].framed and all(one.searched for one in cues)
    small = sum([len(one.pages) for one in cues]) * x[0].numel() <= ENTERED
    entered = list[Tensor]() if kept and small else None
    energies, found = yield from _compute_energies(state, cues, x, entered, cut=cut)
    ways = torch.cat(entered) if entered else None
    row_of = {one: row for row, one in enumerate(cues)}
    starts = np.cumsum([0, *(len(one.pages) for one in cues)]).tolist()
    alike: dict[int, list[tuple[Cues, int]]] = defaultdict(list)
    for one, start in zip(cues, starts, strict=False):
        if one not in found:
            alike[len(one.pages)].append((one, start))
    for count, group in alike.items():
        stored = torch.tensor([[page.patterns for page in one.pages] for one, _ in group], device=energies.device)
        columns = list[Sequence[NDArray[np.generic]]]()
        width = max(1, CHOICES // count) if cut else energies.shape[1]
        for left in range(0, energies.shape[1], width):
            gaps = torch.stack([energies[start : start + count, left : left + width] for _, start in group])
            choice = choice_of(gaps, stored, calibration)
            columns.append([one.cpu().numpy() for one in (choice.page, choice.rival, choice.lead, choice.contested)])
            yield
        joint = [np.concatenate(parts, 1) for parts in zip(*columns, strict=True)]
        for row, (one, start) in enumerate(group):
            n = len(one.values)
            own = None if ways is None else ways[start : start + count, :n]
            page, rival, lead, contested = [column[row, :n] for column in joint]
            found[one] = Routes(x[row_of[one], :n], page, rival, lead, contested, own)
    return found


def _compute_energies(
    state: ModelState,
    cues: Sequence[Cues],
    x: Tensor,  # (rows, width, entries), encoded as far as for all pages
    entered: list[Tensor] | None,
    *,
    cut: bool,
) -> Stops[tuple[Tensor, dict[Cues, Routes | ServerError]]]:
    """Compute E (pages of all, width) of the cues in their pages, one after another; and which pages did not come.

    The cues in the frames of the pages are added to `entered`, if that is given.
    """
    asked = [(row, page) for row, one in enumerate(cues) for page in one.pages]
    energies = torch.empty(len(asked), x.shape[1], device=x.device)
    failed: dict[Cues, Routes | ServerError] = {}
    lent, limit, framed = state.in_place_tensors, state.limit_reads(()), cues[0].framed
    if cut:
        limit = min(limit, max(1, PART_LOOKS // x.shape[1]))
    for start in range(0, len(asked), limit):
        part = asked[start : start + limit]
        errors = state.bank.bring([page for _, page in part])
        failed |= {cues[row]: errors[page] for row, page in part if page in errors}
        pages = [Page() if page in errors else page for _, page in part]
        rows = state.count_rows(len(part))
        own = x.index_select(0, state.make_column([row for row, _ in part], rows))
        if lent is not None:
            places = state.bank.locate(pages)
            own = state.enter_frames(framed, own, lent, places)
            found, _ = compute.recognize_in_place(state.model, lent, places, own)
        else:
            fast = state.copy_brought_pages(pages, rows)
            own = state.enter_frames(framed, own, fast)
            found = compute.compute_energies(state.model, fast, own)
        if entered is not None:
            entered.append(own[: len(part)])
        energies[start : start + len(part)] = found[: len(part)]
        yield
    return energies, failed
