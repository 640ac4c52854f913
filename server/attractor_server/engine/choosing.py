"""Which page of a memory answers each cue: all pages' energies of all cues in few calls, before any reading."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attractor_server.energy.choice import chosen_pages
from attractor_server.engine import programs
from attractor_server.engine.batch import Grid, Lane, Loaded, bucket, chunks
from attractor_server.engine.faults import fault
from attractor_server.engine.page import Page
from attractor_server.engine.work import Floats, Job
from attractor_server.errors import ServerError

ALL = slice(None)
Some: TypeAlias = slice | NDArray[np.int64]
"""Which patterns of a job"""
Numbers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Row:
    """The patterns that one page is asked about."""

    page: Page
    number: int
    """Of the page in its memory"""
    among: int
    """Pages that could have been asked"""
    parts: Sequence[tuple[Job, Some, int]]
    """Each with the number of patterns"""

    @property
    def size(self) -> int:
        """Patterns in it."""
        return sum(count for _, _, count in self.parts)


@dataclass(frozen=True, eq=False)
class Cues:
    """Patterns (n, d), in user units, and the pages of which one answers each."""

    pages: Sequence[Page]
    values: Floats


def rows_of(loaded: Loaded, lanes: Sequence[Lane]) -> tuple[Sequence[Row], dict[Job, ServerError]]:
    """The rows that the lanes' jobs make, a row for each page that answers; and the jobs whose pages did not come."""
    rows = [_whole(lane) for lane in lanes if len(lane.memory.pages) < 2]
    several = [lane for lane in lanes if len(lane.memory.pages) > 1]
    failed: dict[Job, ServerError] = {}
    found = choose(loaded, [Cues(lane.memory.pages, lane.values) for lane in several])
    for lane, numbers in zip(several, found, strict=True):
        if isinstance(numbers, ServerError):
            failed |= dict.fromkeys(lane.jobs, numbers)
        else:
            rows += _rows(lane, numbers)
    return rows, failed


def choose(loaded: Loaded, cues: Sequence[Cues]) -> Sequence[Numbers | ServerError]:
    """For each of the cues the number of the page that answers it, (n,), or why its pages could not be asked."""
    found: dict[Cues, Numbers | ServerError] = {}
    for alike in chunks(cues, lambda one: len(one.values), limit=len(cues)):
        try:
            found |= _chosen(loaded, alike)
        except Exception as error:
            found |= dict.fromkeys(alike, fault(error, "choice of pages", len(alike)))
    return [found[one] for one in cues]


def _whole(lane: Lane) -> Row:
    page = lane.memory.pages[0] if lane.memory.pages else Page()
    return Row(page, 0, 1, [(job, ALL, job.size) for job in lane.jobs])


def _rows(lane: Lane, numbers: Numbers) -> Iterator[Row]:
    pages = lane.memory.pages
    among = max(1, sum(page.patterns > 0 for page in pages))
    for number in np.unique(numbers).tolist():
        yield Row(pages[number], number, among, list(_parts(lane, numbers == number)))


def _parts(lane: Lane, here: NDArray[np.bool_]) -> Iterator[tuple[Job, Some, int]]:
    start = 0
    for job in lane.jobs:
        places = np.flatnonzero(here[start : start + job.size])
        start += job.size
        if len(places):
            yield job, ALL if len(places) == job.size else places, len(places)


def _chosen(loaded: Loaded, cues: Sequence[Cues]) -> dict[Cues, Numbers | ServerError]:
    """Of cues whose numbers have the same bucket."""
    energies, found = _energies(loaded, cues)
    starts = np.cumsum([0, *(len(one.pages) for one in cues)]).tolist()
    alike: dict[int, list[tuple[Cues, int]]] = defaultdict(list)
    for one, start in zip(cues, starts, strict=False):
        if one not in found:
            alike[len(one.pages)].append((one, start))
    for count, group in alike.items():
        gaps = torch.stack([energies[start : start + count] for _, start in group])
        stored = torch.tensor([[page.patterns for page in one.pages] for one, _ in group], device=gaps.device)
        numbers = chosen_pages(gaps, stored, loaded.model.calibration).cpu().numpy()
        found |= {one: row[: len(one.values)] for (one, _), row in zip(group, numbers, strict=True)}
    return found


def _energies(loaded: Loaded, cues: Sequence[Cues]) -> tuple[Tensor, dict[Cues, Numbers | ServerError]]:
    """E (pages of all, width) of the cues in their pages, one after another; and the cues whose pages did not come."""
    grid = Grid([len(one.values) for one in cues])
    x = loaded.model.encode(loaded.given(grid.spread(np.concatenate([one.values for one in cues]))))
    asked = [(row, page) for row, one in enumerate(cues) for page in one.pages]
    energies = torch.empty(len(asked), grid.shape[1], device=x.device)
    failed: dict[Cues, Numbers | ServerError] = {}
    for start in range(0, len(asked), loaded.limit):
        part = asked[start : start + loaded.limit]
        errors = loaded.bank.bring([page for _, page in part])
        failed |= {cues[row]: errors[page] for row, page in part if page in errors}
        pages = [Page() if page in errors else page for _, page in part]
        fast = loaded.fast(pages, bucket(len(part)))
        at = loaded.column([row for row, _ in part], bucket(len(part)))
        energies[start : start + len(part)] = programs.energies(loaded.model, fast, x.index_select(0, at))[: len(part)]
    return energies, failed
