"""Plans of stores: which patterns go to which page, before anything is computed or applied."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from types import MappingProxyType

import numpy as np

from attractor_server.engine.batch import MemoryBatch, concatenate
from attractor_server.engine.operations.conflicts import Conflicts, EditedPage, Row, exists_error, group_rows
from attractor_server.errors import MemoryFull, ServerError
from attractor_server.memories.items import ByIds, stamp_items
from attractor_server.memories.outcomes import Floats, Stored
from attractor_server.memories.page import Page
from attractor_server.memories.records import NOTHING, Change, Item
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

    def __init__(
        self,
        batch: MemoryBatch,
        conflicts: Conflicts | None = None,
        similar: Mapping[Job, Sequence[str | None]] = MappingProxyType({}),
    ) -> None:
        """Plan stores that append, or that meet these conflicts of ids, or these similar patterns.

        Raises:
            NotRetained: not all patterns are kept of a page in which some are to be replaced.
        """
        self.memory = batch.memory
        self._conflicts = conflicts
        self._similar = similar
        self._edits: dict[Page, EditedPage] = {}
        self.replaced: dict[Page, Page] = {}
        """Pages that come into the places of those in which patterns were replaced, by the old ones"""
        self.jobs: list[Job] = []
        """Those that the memory takes"""
        self.outcomes: dict[Job, Stored | ServerError] = {}
        self.error: ServerError | None = None
        """Why nothing can be applied"""
        self.dropped: list[Page] = []
        """Those that are forgotten"""
        self.parts: list[PagePart] = []
        """What goes where, in the order of the stores"""
        self._now_s = time.time()
        self._before, self._count_before = batch.memory.counts(), len(batch.memory.pages)
        self._pages = list(batch.memory.pages)
        self._held = {page: page.patterns for page in self._pages[-2:]}
        self._given: dict[Page, list[Floats]] = {}
        self._version, self._total = batch.memory.version, batch.memory.patterns
        for job in batch.jobs:
            self._take(job)
        self.version, self.patterns = self._version, self._total
        """Of the memory, once they are applied"""
        self._finish_edits()
        self.writes = list(self._plan_writes())

    def apply(self) -> None:
        """Bring the memory's record up to the stores."""
        self.memory.pages[:] = self._pages
        self.memory.version, self.memory.patterns = self.version, self.patterns
        self.memory.touch()

    def describe(self, change: Change) -> Change:
        """Return the change of its pages with what happens to items without a pattern."""
        return change if self._conflicts is None else self._conflicts.shelves.describe(change)

    def fills(self, page: Page) -> bool:
        """Return whether that page is the one to be filled once the stores are applied."""
        return page is self._pages[-1]

    def take_back(self) -> None:
        """Restore the memory's record as it was before; its pages are not at hand."""
        self.memory.pages[:] = [*self.dropped, *self._pages][: self._count_before]
        self.memory.take_back(self._before)

    def _take(self, job: Job) -> None:
        settings = self.memory.settings
        assert job.values is not None
        if (name := self._find_refused(job)) is not None:
            self.outcomes[job] = exists_error(self.memory, name)
            return
        replacement = self._plan_replacement(job)
        values, items = replacement.values, replacement.items
        held = self._total - len(replacement.removed)
        if settings.when_full == "refuse" and held + len(values) > settings.page_patterns:
            self.outcomes[job] = MemoryFull(
                f"memory {self.memory.name!r} holds {held} of the {settings.page_patterns} patterns of its page, and "
                f"was made to refuse what it has no room for: saw {len(values)} more; erase some, or use another memory"
            )
            return
        start = 0
        self._version += 1
        self._edit(replacement)
        while start < len(values):
            page = self._find_open_page()
            part = values[start : start + settings.page_patterns - self._held[page]]
            self._given.setdefault(page, []).append(part)
            self.parts.append(PagePart(page, self._version, part, items[start : start + len(part)]))
            self._held[page] += len(part)
            start += len(part)
        self._total += len(values)
        self.jobs.append(job)
        existing = self._similar.get(job, ())
        self.outcomes[job] = Stored(version=self._version, patterns=self._total, existing=existing)

    def _find_refused(self, job: Job) -> str | None:
        """Return the id for which a store that was to refuse conflicts fails; None where it does not."""
        if self._conflicts is None or job.on_conflict != "refuse":
            return None
        return self._conflicts.find_first(job.items)

    def _plan_replacement(self, job: Job) -> "Replacement":
        """Return which patterns of a job take the places of others, and which are appended."""
        items = list(stamp_items(job.items, self._now_s))
        assert job.values is not None
        if job in self._similar:
            new = [name is None for name in self._similar[job]]
            return Replacement(job.values[new], list(compress(items, new)))
        plan = Replacement(job.values, items)
        if self._conflicts is None or job.on_conflict in ("append", "refuse"):
            return plan
        goes = np.ones(len(job.values), np.bool_)
        for name, rows in group_rows(items).items():
            if name not in self._conflicts:
                continue
            if job.on_conflict == "keep":
                goes[rows] = False
                continue
            created_s = self._conflicts.find_created_s(name)
            for row in rows:
                items[row] = replace(items[row], created_s=created_s or items[row].created_s)
            old = self._conflicts.find_rows(name)
            kept = [] if self.memory.settings.when_full == "forget" else old[: len(rows)]  # new patterns last longest
            for (page, at), row in zip(kept, rows, strict=False):
                plan.substituted.append((page, at, job.values[row], items[row]))
                goes[row] = False
            plan.removed += old[len(kept) :]
            plan.shelved += [(number, name) for number in self._conflicts.find_shelves(name)]
        plan.values, plan.items = job.values[goes], list(compress(items, goes))
        return plan

    def _edit(self, plan: "Replacement") -> None:
        """Replace and take away patterns of pages that the memory has."""
        for page, at, values, item in plan.substituted:
            edited = self._find_edit(page)
            edited.values[at], edited.items[at] = values, item
        for number, name in plan.shelved:
            assert self._conflicts is not None
            self._conflicts.shelves.remove(number, ByIds(frozenset([name])).takes)
        for page, at in plan.removed:
            self._find_edit(page).stays[at] = False
            self._total -= 1
            if page in self._held:
                self._held[page] -= 1

    def _find_edit(self, page: Page) -> EditedPage:
        if (edited := self._edits.get(page)) is None:
            assert self._conflicts is not None
            patterns = self._conflicts.load(page)
            edited = self._edits[page] = EditedPage(patterns.values.copy(), list(patterns.items))
        return edited

    def _finish_edits(self) -> None:
        """Put a new page in the place of each edited one, with all that it has in the end."""
        for page, edited in self._edits.items():
            if page not in self._pages:  # it was dropped by what came after
                continue
            values, items = edited.left
            appended = [part for part in self.parts if part.page is page]
            whole = concatenate([values, *(part.values for part in appended)])
            items = [*items, *(item for part in appended for item in part.items or [NOTHING] * len(part.values))]
            new = self.replaced[page] = Page(number=page.number)
            self._pages[self._pages.index(page)] = new
            self._given.pop(page, None)
            self._given[new] = [whole] if len(whole) else []
            self.parts = [part for part in self.parts if part.page is not page]
            self.parts.append(PagePart(new, self.version, whole, items))

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
        for page in self._pages[-len(self._given) :] if not self.replaced else self._pages:
            if self._given.get(page):
                yield PageWrite(self, page, concatenate(self._given[page]), new=page is not last)


@dataclass(eq=False)
class Replacement:
    """Patterns of one store that are appended, and what they replace."""

    values: Floats
    """(n, d)"""
    items: Sequence[Item]
    """One for each; empty where none carries anything"""
    substituted: list[tuple[Page, int, Floats, Item]] = field(default_factory=list)
    """Page and row of an old pattern, and the new one"""
    removed: list[Row] = field(default_factory=list)
    """Old patterns without a new one"""
    shelved: list[tuple[int, str]] = field(default_factory=list)
    """Page and id of old items without a pattern"""


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
        return not self.plan.memory.settings.seals(patterns) and self.plan.fills(self.page)
