"""Plans of erases: which pages are written anew without what, before anything is computed or applied."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from attractor_server.engine.operations.shelves import ShelfEdits
from attractor_server.errors import ServerError
from attractor_server.memories.items import Expired
from attractor_server.memories.outcomes import Booleans, Floats
from attractor_server.memories.page import Page
from attractor_server.memories.records import Change, Item
from attractor_server.scheduling.jobs import Job

TOLERANCE = 1e-5
"""How far two float32 values of one pattern may lie apart, relative to them"""

GLANCE = 16
"""Values of a pattern that are compared first"""

AT_A_TIME = 1 << 20
"""Values that are compared in one call, about"""


@dataclass(eq=False)
class PageEdit:
    """Change of one page by an erase: patterns (n, d) in user units."""

    page: Page
    kept: Floats | None = None
    """Those it is rewritten with; None where it is not rewritten"""
    items: Sequence[Item] = ()
    """What these carry, one for each; empty where none carries anything"""
    erased: list[Floats] = field(default_factory=list)
    """Those that the eraser is given"""
    framed: bool = False
    """The memory's pages have frames"""

    @property
    def count(self) -> int:
        """For the eraser."""
        return sum(map(len, self.erased))

    @property
    def before(self) -> int:
        """Patterns that the page has when the eraser begins."""
        return self.page.patterns if self.kept is None else len(self.kept)

    @property
    def empties(self) -> bool:
        """Whether it leaves the page as one never written."""
        return self.kept is not None and not len(self.kept)

    @property
    def left(self) -> int:
        """Patterns that the page has in the end."""
        return max(0, self.before - self.count)


@dataclass(eq=False)
class ErasePlan:
    """Plan of one job's erase: the pages to change. Nothing of it is applied before all its pages are computed."""

    job: Job
    rest: Floats
    """Patterns (n, d) whose page is not known yet"""
    changes: dict[Page, PageEdit] = field(default_factory=dict)
    error: ServerError | None = None
    shelves: ShelfEdits | None = None
    """Changes of pages of items without a pattern"""
    taken: int = 0
    """Items that are chosen"""

    def __post_init__(self) -> None:
        self._before = self.job.memory.counts()
        self.now_s = time.time()

    @property
    def idle(self) -> bool:
        """Whether it is the server's own and finds nothing to do."""
        return isinstance(self.job.chosen, Expired) and not (self.changes or self.shelves)

    def describe(self, change: Change) -> Change:
        """Return the change of its pages with all else that it does."""
        change = replace(change, call=self.job.call)
        return change if self.shelves is None else self.shelves.describe(change)

    def take_back(self) -> None:
        """Restore the memory's record as it was before; its pages are not at hand."""
        self.job.memory.take_back(self._before)

    def begin(self) -> None:
        """Know nothing of where its patterns are."""
        self.rest = np.zeros((0, 0), np.float32) if self.job.values is None else self.job.values
        self.changes, self.error, self.shelves, self.taken = {}, None, None, 0

    def keeps(self, change: PageEdit) -> Floats | None:
        """Return the patterns that a changed page keeps at hand: those it was rewritten with, if it is to be filled."""
        memory = self.job.memory
        open_page = change.page is memory.pages[-1] and not memory.settings.seals(change.left)
        if change.erased or change.kept is None or memory.settings.write != "rewrite" or not open_page:
            return None
        return change.kept


def remove_erased(kept: Floats, erased: Floats) -> tuple[Booleans, Floats]:
    """Return a mask of the kept patterns that remain, one erased for one kept, and the erased that matched none."""
    stays, found = np.ones(len(kept), np.bool_), np.zeros(len(erased), np.bool_)
    for row in _match_rows(kept, erased):
        same = np.flatnonzero(_same(kept, erased[row]) & stays)
        found[row] = bool(len(same))
        stays[same[:1]] = False
    return stays, erased[~found]


def _match_rows(kept: Floats, erased: Floats) -> Iterator[int]:
    """Rows of the erased patterns that are the same as some kept one in a few of their values."""
    some = np.linspace(0, kept.shape[1] - 1, min(GLANCE, kept.shape[1])).astype(np.int64)
    few, at_a_time = kept[:, some], max(1, AT_A_TIME // (len(kept) * len(some) + 1))
    for start in range(0, len(erased), at_a_time):
        part = erased[start : start + at_a_time, some]
        yield from (start + np.flatnonzero(_same(few, part[:, None]).any(1))).tolist()


def _same(kept: Floats, erased: Floats) -> Booleans:  # (…, values) each, which are broadcast
    return np.asarray(np.isclose(kept, erased, rtol=TOLERANCE, atol=TOLERANCE).all(-1))
