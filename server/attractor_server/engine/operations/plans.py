"""Plans of stores and erases: which patterns go to which page, before anything is computed or applied."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from attractor_server.engine.batch import MemoryBatch, concatenate
from attractor_server.errors import MemoryFull, ServerError
from attractor_server.memories.outcomes import Booleans, Floats, Stored
from attractor_server.memories.page import Page
from attractor_server.memories.records import Item
from attractor_server.scheduling.jobs import Job


@dataclass(frozen=True, eq=False)
class PagePart:
    """Patterns (n, d) of one store that go to one page."""

    page: Page
    version: int
    """Of the memory, after the store"""
    values: Floats
    items: Sequence[Item]
    """One for each pattern; empty where none carries anything"""


class StorePlan:
    """Plan of the stores of a memory: the pages to write. Nothing of it is applied before `apply`."""

    def __init__(self, batch: MemoryBatch) -> None:
        self.memory = batch.memory
        self.jobs: list[Job] = []
        """Those that the memory takes"""
        self.outcomes: dict[Job, Stored | ServerError] = {}
        self.error: ServerError | None = None
        """Why nothing can be applied"""
        self.dropped: list[Page] = []
        """Those that are forgotten"""
        self.parts: list[PagePart] = []
        """What goes where, in the order of the stores"""
        self._before, self._count_before = batch.memory.counts(), len(batch.memory.pages)
        self._pages = list(batch.memory.pages)
        self._held = {page: page.patterns for page in self._pages[-2:]}
        self._given: dict[Page, list[Floats]] = {}
        self._version, self._total = batch.memory.version, batch.memory.patterns
        for job in batch.jobs:
            self._take(job)
        self.version, self.patterns = self._version, self._total
        """Of the memory, once they are applied"""
        self.writes = list(self._plan_writes())

    def apply(self) -> None:
        """Bring the memory's record up to the stores."""
        self.memory.pages[:] = self._pages
        self.memory.version, self.memory.patterns = self.version, self.patterns
        self.memory.touch()

    def take_back(self) -> None:
        """Restore the memory's record as it was before; its pages are not at hand."""
        self.memory.pages[:] = [*self.dropped, *self._pages][: self._count_before]
        self.memory.take_back(self._before)

    def _take(self, job: Job) -> None:
        values, settings = job.values, self.memory.settings
        assert values is not None
        if settings.when_full == "refuse" and (held := self._total) + len(values) > settings.page_patterns:
            self.outcomes[job] = MemoryFull(
                f"memory {self.memory.name!r} holds {held} of the {settings.page_patterns} patterns of its page, and "
                f"was made to refuse what it has no room for: saw {len(values)} more; erase some, or use another memory"
            )
            return
        start = 0
        self._version += 1
        while start < len(values):
            page = self._find_open_page()
            part = values[start : start + settings.page_patterns - self._held[page]]
            self._given.setdefault(page, []).append(part)
            self.parts.append(PagePart(page, self._version, part, job.items[start : start + len(part)]))
            self._held[page] += len(part)
            start += len(part)
        self._total += len(values)
        self.jobs.append(job)
        self.outcomes[job] = Stored(version=self._version, patterns=self._total)

    def _find_open_page(self) -> Page:
        """Return the page with room for a pattern; a new one, if need be in the place of the oldest."""
        settings = self.memory.settings
        if not self._pages or self._held[self._pages[-1]] >= settings.page_patterns:
            self._pages.append(Page(number=self._pages[-1].number + 1 if self._pages else 0))
            self._held[self._pages[-1]] = 0
            if settings.most_pages and len(self._pages) > settings.most_pages:
                self.dropped.append(oldest := self._pages.pop(0))
                self._total -= self._held.pop(oldest)
        return self._pages[-1]

    def _plan_writes(self) -> Iterator["PageWrite"]:
        last = self.memory.pages[-1] if self.memory.pages else None
        for page in (page for page in self._pages[-len(self._given) :] if page in self._given):
            yield PageWrite(self, page, concatenate(self._given[page]), new=page is not last)


@dataclass(eq=False)
class PageWrite:
    """Patterns (n, d) that go to one page."""

    plan: StorePlan
    page: Page
    values: Floats
    new: bool
    """The memory had no such page"""

    @property
    def rewrites(self) -> bool:
        """Whether the page is written anew with all its patterns; its kept ones must be at hand.

        A page that the eraser changed has none, and does not follow from its patterns any more: it is added to.
        """
        settings = self.plan.memory.settings
        return settings.write == "rewrite" and (self.page.kept is not None or not self.page.patterns)

    @property
    def size(self) -> int:
        """Patterns in the program that writes it, if the page has kept its own."""
        adds = self.plan.memory.settings.write == "stream"
        return len(self.values) + (0 if adds else self.page.patterns)

    def keeps(self, patterns: int) -> bool:
        """Return whether a page that was rewritten, with so many patterns, keeps them: there may be more to come."""
        return not self.plan.memory.settings.seals(patterns)


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

    def __post_init__(self) -> None:
        self._before = self.job.memory.counts()

    def take_back(self) -> None:
        """Restore the memory's record as it was before; its pages are not at hand."""
        self.job.memory.take_back(self._before)

    def begin(self) -> None:
        """Know nothing of where its patterns are."""
        assert self.job.values is not None
        self.rest, self.changes, self.error = self.job.values, {}, None

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
