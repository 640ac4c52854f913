"""Conflicts of ids: what stores that replace, refuse or keep find in their memory, before anything is computed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from attractor_server.engine.batch import MemoryBatch
from attractor_server.engine.operations.shelves import ShelfEdits
from attractor_server.engine.pages.pattern_cache import PagePatterns, PatternCache
from attractor_server.errors import ItemExists, NotRetained, quote
from attractor_server.memories.items import LOOSE_PAGES, ItemPlace
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Booleans, Floats
from attractor_server.memories.page import Page
from attractor_server.memories.records import Item
from attractor_server.memories.store import MemoryStore
from attractor_server.scheduling.jobs import Job

Row: TypeAlias = tuple[Page, int]
"""A page, and the row of a pattern among its own"""


@dataclass(eq=False)
class EditedPage:
    """Patterns of a page whose rows are replaced and taken away."""

    values: Floats
    """(n, d)"""
    items: list[Item]
    stays: Booleans = field(init=False)

    def __post_init__(self) -> None:
        self.stays = np.ones(len(self.items), np.bool_)

    @property
    def left(self) -> tuple[Floats, Sequence[Item]]:
        """The patterns that it has in the end."""
        return self.values[self.stays], [item for item, stays in zip(self.items, self.stays, strict=True) if stays]


class Conflicts:
    """Items that a memory has already of those that the stores of a batch name."""

    def __init__(
        self,
        store: MemoryStore,
        memory: MemoryRecord,
        patterns: PatternCache,
        found: Sequence[tuple[str, ItemPlace]],
    ) -> None:
        self._memory = memory
        self._patterns = patterns
        self.shelves = ShelfEdits(store, memory.id)
        """Changes of pages of items without a pattern"""
        numbers = {place.page for _, place in found}
        self._pages = {page.number: page for page in memory.pages if page.number in numbers} if numbers else {}
        self._found: dict[str, list[ItemPlace]] = {}
        for name, place in found:
            self._found.setdefault(name, []).append(place)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def find_first(self, items: Sequence[Item]) -> str | None:
        """Return the first id of the items that the memory has."""
        return next((item.id for item in items if item.id in self._found), None)

    def find_rows(self, name: str) -> Sequence[Row]:
        """Return where the patterns with that id are, in the order of storing.

        Raises:
            NotRetained: a page has its weights alone, and not all its patterns.
        """
        numbers = dict.fromkeys(place.page for place in self._found.get(name, ()) if place.page in self._pages)
        rows = list[Row]()
        for page in (self._pages[number] for number in numbers):
            rows += [(page, row) for row, item in enumerate(self.load(page).items) if item.id == name]
        return rows

    def find_shelves(self, name: str) -> Sequence[int]:
        """Return the pages of items without a pattern that have that id."""
        return sorted({place.page for place in self._found.get(name, ()) if place.page >= LOOSE_PAGES})

    def find_created_s(self, name: str) -> float:
        """Return when the item with that id was stored first; 0 if nobody noted it."""
        items = [self.load(page).items[at] for page, at in self.find_rows(name)]
        for number in self.find_shelves(name):
            items += [item for item in self.shelves.load(number) if item.id == name]
        return min((item.created_s for item in items), default=0.0)

    def load(self, page: Page) -> PagePatterns:
        """Return all patterns of a page.

        Raises:
            NotRetained: not all are kept.
        """
        if (patterns := self._patterns.of(self._memory, page)) is None:
            raise NotRetained(
                f"page {page.number} of memory {self._memory.name!r} has its weights alone, and not its "
                f"{page.patterns} patterns: the eraser was at work; only what is kept can be replaced"
            )
        return patterns


def find_conflicts(store: MemoryStore, patterns: PatternCache, batch: MemoryBatch) -> Conflicts | None:
    """Return what the memory has of the ids that a batch names; None where its stores all append."""
    asking = [job for job in batch.jobs if job.on_conflict != "append"]
    if not asking:
        return None
    ids = list(dict.fromkeys(item.id for job in asking for item in job.items if item.id))
    return Conflicts(store, batch.memory, patterns, store.find_places(batch.memory.id, ids))


def split_runs(batch: MemoryBatch) -> Iterator[MemoryBatch]:
    """Yield the jobs of a batch in runs that can be planned together: none looks for an id that another one stores."""
    if len(batch.jobs) > 1 and any(job.unless_similar for job in batch.jobs):  # which looks for all that is there
        yield from (MemoryBatch(batch.memory, [job]) for job in batch.jobs)
        return
    if all(job.on_conflict == "append" for job in batch.jobs):
        yield batch
        return
    jobs, given, asked = list[Job](), set[str](), set[str]()
    for job in batch.jobs:
        ids = {item.id for item in job.items if item.id}
        asks = ids if job.on_conflict != "append" else set[str]()
        if jobs and not (asked.isdisjoint(ids) and given.isdisjoint(asks)):
            yield MemoryBatch(batch.memory, jobs)
            jobs, given, asked = [], set(), set()
        jobs.append(job)
        given |= ids
        asked |= asks
    yield MemoryBatch(batch.memory, jobs)


def exists_error(memory: MemoryRecord, name: str) -> ItemExists:
    """Return the refusal of a store that names an id which its memory has."""
    return ItemExists(
        f"memory {memory.name!r} has an item with the id {quote(name)}, and the store was to refuse that: nothing of "
        "it was applied; choose another id, or replace or keep what is there"
    )


def group_rows(items: Sequence[Item]) -> Mapping[str, Sequence[int]]:
    """Return the rows of each id, in their order; without those of no id."""
    rows: dict[str, list[int]] = {}
    for row, item in enumerate(items):
        if item.id:
            rows.setdefault(item.id, []).append(row)
    return rows
