"""Which patterns of a store go to which page: worked out on numbers, before anything is computed or applied."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attractor_server.engine.batch import Lane, joined
from attractor_server.engine.page import Page
from attractor_server.engine.work import Floats, Job, Stored
from attractor_server.errors import MemoryFull, ServerError
from attractor_server.storage.records import Item


@dataclass(frozen=True, eq=False)
class Part:
    """Patterns (n, d) of one store that go to one page."""

    page: Page
    version: int
    """Of the memory, after the store"""
    values: Floats
    items: Sequence[Item]
    """One for each pattern; empty where none carries anything"""


class Filling:
    """What the stores of a lane make of its memory. Nothing of it is applied before `apply`."""

    def __init__(self, lane: Lane) -> None:
        self.memory = lane.memory
        self.jobs: list[Job] = []
        """Those that the memory takes"""
        self.outcomes: dict[Job, Stored | ServerError] = {}
        self.error: ServerError | None = None
        """Why nothing can be applied"""
        self.dropped: list[Page] = []
        """Those that are forgotten"""
        self.parts: list[Part] = []
        """What goes where, in the order of the stores"""
        self._before, self._count_before = lane.memory.counts(), len(lane.memory.pages)
        self._pages = list(lane.memory.pages)
        self._held = {page: page.patterns for page in self._pages[-2:]}
        self._given: dict[Page, list[Floats]] = {}
        self._version, self._total = lane.memory.version, lane.memory.patterns
        for job in lane.jobs:
            self._take(job)
        self.version, self.patterns = self._version, self._total
        """Of the memory, once they are applied"""
        self.writes = list(self._writes())

    def apply(self) -> None:
        """Makes the memory's record what the stores made of it."""
        self.memory.pages[:] = self._pages
        self.memory.version, self.memory.patterns = self.version, self.patterns
        self.memory.touch()

    def take_back(self) -> None:
        """Makes the memory's record what it was before; its pages are not at hand."""
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
            page = self._open_page()
            part = values[start : start + settings.page_patterns - self._held[page]]
            self._given.setdefault(page, []).append(part)
            self.parts.append(Part(page, self._version, part, job.items[start : start + len(part)]))
            self._held[page] += len(part)
            start += len(part)
        self._total += len(values)
        self.jobs.append(job)
        self.outcomes[job] = Stored(version=self._version, patterns=self._total)

    def _open_page(self) -> Page:
        """The page with room for a pattern; a new one, if need be in the place of the oldest."""
        settings = self.memory.settings
        if not self._pages or self._held[self._pages[-1]] >= settings.page_patterns:
            self._pages.append(Page(number=self._pages[-1].number + 1 if self._pages else 0))
            self._held[self._pages[-1]] = 0
            if settings.most_pages and len(self._pages) > settings.most_pages:
                self.dropped.append(oldest := self._pages.pop(0))
                self._total -= self._held.pop(oldest)
        return self._pages[-1]

    def _writes(self) -> Iterator["Write"]:
        last = self.memory.pages[-1] if self.memory.pages else None
        for page in (page for page in self._pages[-len(self._given) :] if page in self._given):
            yield Write(self, page, joined(self._given[page]), new=page is not last)


@dataclass(eq=False)
class Write:
    """Patterns (n, d) that go to one page."""

    filling: Filling
    page: Page
    values: Floats
    new: bool
    """The memory had no such page"""

    @property
    def rewrites(self) -> bool:
        """Whether the page is written anew with all its patterns; its kept ones must be at hand.

        A page that the eraser changed has none, and does not follow from its patterns any more: it is added to.
        """
        settings = self.filling.memory.settings
        return settings.write == "rewrite" and (self.page.kept is not None or not self.page.patterns)

    @property
    def size(self) -> int:
        """Patterns in the program that writes it, if the page has kept its own."""
        adds = self.filling.memory.settings.write == "stream"
        return len(self.values) + (0 if adds else self.page.patterns)

    def keeps(self, patterns: int) -> bool:
        """Whether a page that was rewritten, with so many patterns, keeps them: there may be more to come."""
        return not self.filling.memory.settings.seals(patterns)
