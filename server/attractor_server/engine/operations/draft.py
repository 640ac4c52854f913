"""Beside a memory: what changes many of its pages is made part by part, and takes their places all at once.

Until then nobody sees any of it, in the bank or in the store, and what fails leaves the memory as it was.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from attractor_server.engine.batch import ModelState, Stops
from attractor_server.errors import ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.page import Page, release
from attractor_server.memories.records import Change, StoredMemory
from attractor_server.memories.store import MemoryStore

logger = logging.getLogger(__name__)

PART_S = 0.02
"""What a part of the work on the store should take"""

DROPPED = 16
"""Old pages that are deleted at a time, at the most"""

RELEASED = 8
"""Pages that leave the bank at a time"""


class Draft:
    """Pages on their way into the store. Lives on the engine's thread."""

    def __init__(self, store: MemoryStore, memory: MemoryRecord) -> None:
        self._store = store
        self._memory = memory
        self._id = 0
        self.numbers: set[int] = set()
        """Of the pages that are there"""

    def add(self, change: Change) -> None:
        """Keep the pages of the change, each with all that it has.

        Raises:
            ServerError: the store failed.
        """
        if not self._id:
            self._id = self._store.begin_import(_like(self._memory))
        self._store.add_pages(replace(change, memory=self._id))
        self.numbers.update(change.pages)

    def end(self, change: Change) -> None:
        """Apply the change, and put the pages in the places of those that the memory has of these numbers.

        Raises:
            ServerError: the store failed; whether it did this is not known.
        """
        self._store.end_change(self._id, change)

    def discard(self) -> None:
        """Leave nothing of it, or, if it has ended after all, of what the memory had, by and by."""
        if self._id:
            with suppress(ServerError):
                self._store.abandon(self._id)

    def forget_old(self) -> Iterator[None]:
        """Delete what the memory had in these places, with stops."""
        return delete_in_parts(self._store, self._id)


def draft_of(state: ModelState, memory: MemoryRecord) -> Draft | None:
    """Return a new one, or None where no store keeps the memory."""
    return None if state.store is None or not memory.id else Draft(state.store, memory)


def release_by_and_by(state: ModelState, pages: Iterable[Page]) -> Stops[None]:
    """Free the places of pages, with stops; all of them also where it does not go on after one."""
    left = list(pages)
    try:
        while left:
            part = left[-RELEASED:]
            del left[-RELEASED:]
            for page in part:
                if state.patterns is not None:
                    state.patterns.invalidate(page)
            release(part)
            yield
    finally:
        release(left)


def delete_in_parts(store: MemoryStore, draft: int) -> Iterator[None]:
    """Delete that memory, which nobody reaches, with a stop after each part. What fails is left for a later call."""
    pages, started_s = 1, time.perf_counter()
    try:
        while store.shorten(draft, pages=pages):
            took_s = time.perf_counter() - started_s
            pages = max(1, pages // 2) if took_s > PART_S else min(2 * pages, DROPPED) if 2 * took_s < PART_S else pages
            yield
            started_s = time.perf_counter()
        store.forget_unreached(draft)
    except ServerError as error:
        logger.warning("pages of a memory that was deleted or rebuilt are still in the store: %s", error)


def _like(memory: MemoryRecord) -> StoredMemory:
    return StoredMemory(
        id=memory.id,
        name=memory.name,
        model=memory.model,
        model_digest=memory.model_digest,
        settings=memory.settings,
        created_s=memory.created_s,
        version=memory.version,
        patterns=memory.patterns,
    )
