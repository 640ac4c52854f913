"""Items without a pattern: they lie in pages that no engine reads, and change together with a memory's patterns."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from attractor_server.memories.items import END, LOOSE_PAGES, SHELF_ITEMS
from attractor_server.memories.records import Change, Entry, Item
from attractor_server.memories.store import MemoryStore


class ShelfEdits:
    """Changes of a memory's pages of items without a pattern, which one commit applies."""

    def __init__(self, store: MemoryStore, memory: int) -> None:
        self._store = store
        self._memory = memory
        self._left: dict[int, list[Item]] = {}
        """Items that stay in pages that lose some, by number"""
        self._added: dict[int, list[Item]] = {}
        self._counts: dict[int, int] = {}
        """Items of pages that only get some"""

    def __bool__(self) -> bool:
        return bool(self._left or self._added)

    def remove(self, number: int, takes: Callable[[Item], bool]) -> Sequence[Item]:
        """Take items from a page; return them."""
        items = self._left[number] if number in self._left else self.load(number)
        gone = [item for item in items if takes(item)]
        if gone:
            self._left[number] = [item for item in items if not takes(item)]
        return gone

    def put(self, items: Sequence[Item]) -> None:
        """Add items behind all others."""
        found = self._store.find_entries(self._memory, END.page, backwards=True)
        number = LOOSE_PAGES if found is None else max(LOOSE_PAGES, found[0])
        held = len(self._left[number]) if number in self._left else len(self.load(number))
        start = 0
        while start < len(items):
            if held >= SHELF_ITEMS:
                number, held = number + 1, 0
            part = items[start : start + SHELF_ITEMS - held]
            self._added.setdefault(number, []).extend(part)
            self._counts[number] = held
            start, held = start + len(part), held + len(part)

    def describe(self, change: Change) -> Change:
        """Return the change of a memory with what happens to these pages."""
        emptied = [number for number, left in self._left.items() if left or number in self._added]
        contents = {number: [*self._left.get(number, ()), *self._added.get(number, ())] for number in emptied}
        contents |= {number: items for number, items in self._added.items() if number not in contents}
        counts = {
            number: len(items) + (0 if number in emptied else self._counts[number])
            for number, items in contents.items()
        }
        entries = [
            Entry(
                page=number,
                version=change.version,
                written=change.version,
                values=np.zeros((len(items), 0), np.float32),
                items=items,
            )
            for number, items in contents.items()
        ]
        return replace(
            change,
            dropped=[*change.dropped, *(number for number in self._left if number not in contents)],
            emptied=[*change.emptied, *emptied],
            pages={**change.pages, **counts},
            entries=[*change.entries, *entries],
        )

    def load(self, number: int) -> list[Item]:
        """Return the items of a page as the store has it."""
        found = self._store.find_entries(self._memory, number)
        if found is None or found[0] != number:
            return []
        return [item for entry in found[1] for item in entry.items]
