"""Patterns that the backend store keeps, with what they carry; those that were asked for last are at hand."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np

from attractor_server.engine.side_thread import SideThread
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Floats
from attractor_server.memories.page import Page
from attractor_server.memories.records import NOTHING, Item
from attractor_server.memories.store import MemoryStore

LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class PagePatterns:
    """Patterns of a page, in the order in which they were stored."""

    values: Floats
    """(n, d) in user units"""
    items: tuple[Item, ...]
    """(n,)"""
    starts: Mapping[int, int]
    """Place of the first pattern of each version"""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about."""
        return self.values.nbytes + sum(len(item.payload) + len(item.text) + 64 for item in self.items)


class PatternCache:
    """Reads pages' patterns from a backend store. Thread-safe, but for one page in two threads."""

    def __init__(self, store: MemoryStore, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._store = store
        self._limit_bytes = limit_bytes
        self._at_hand: OrderedDict[int, PagePatterns] = OrderedDict()
        """By the page's id, the one that was asked for longest ago first"""
        self._bytes = 0
        self._lock = threading.Lock()
        self.aside = SideThread()
        """For long work with these patterns"""

    def of(self, memory: MemoryRecord, page: Page) -> PagePatterns | None:
        """Return all patterns of that page; None where not all are kept, since its weights alone were, or the eraser's.

        Raises:
            ServerError: the store cannot be read, or is damaged.
        """
        with self._lock:
            if (found := self._at_hand.get(page.id)) is not None:
                self._at_hand.move_to_end(page.id)
                return found
        entries = self._store.page(memory.id, page.number, all_entries=True).entries
        counts = [len(entry.values) for entry in entries]
        if sum(counts) != page.patterns or not page.patterns:
            return None
        found = PagePatterns(
            np.concatenate([entry.values for entry in entries]),
            tuple(chain.from_iterable(entry.items or [NOTHING] * len(entry.values) for entry in entries)),
            dict(zip([entry.version for entry in entries], accumulate([0, *counts]), strict=False)),
        )
        with self._lock:
            self._at_hand[page.id] = found
            self._bytes += found.nbytes
            while self._bytes > self._limit_bytes and len(self._at_hand) > 1:
                self._bytes -= self._at_hand.popitem(last=False)[1].nbytes
        return found

    def invalidate(self, page: Page) -> None:
        """Forget the page's patterns: it holds something else from now on."""
        with self._lock:
            if (old := self._at_hand.pop(page.id, None)) is not None:
                self._bytes -= old.nbytes
