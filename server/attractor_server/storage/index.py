"""The memories of a shard by name: those at hand, and those that are in the backend store alone."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from attractor_server.errors import ModelGone, NotKept, OwnerChanged
from attractor_server.storage.catalog import Answer, Catalog, MemoryRecord, PageType
from attractor_server.storage.groups import group_of
from attractor_server.storage.journal import Journal
from attractor_server.storage.records import NewMemory, StoredMemory
from attractor_server.storage.together import Together

T = TypeVar("T")
Restore: TypeAlias = Callable[[StoredMemory], MemoryRecord[Answer, PageType]]
EXPIRED_AT_A_TIME = 1000
MADE_AT_A_TIME = 1000
FOUND_AT_A_TIME = 100
"""Commits wait meanwhile"""
_WRITERS = 1
"""Threads that wait for the store; its one connection takes one at a time anyway"""


@contextmanager
def _owned(journal: Journal, name: str) -> Iterator[None]:
    """What comes of the block is of use only if the memory was this shard's, without a break, all the time.

    Raises:
        OwnerChanged: it was not.
    """
    epoch = journal.ownership.epoch(name)
    yield
    if journal.ownership.epoch(name) != epoch:
        raise OwnerChanged(f"memory {name!r} was with another shard meanwhile; try again in a moment")


class MemoryIndex(Generic[Answer, PageType]):
    """Looks a memory up in the catalog first and then in the store, if there is one. Lives on one event loop."""

    def __init__(
        self,
        catalog: Catalog[Answer, PageType],
        journal: Journal | None,
        restore: Restore[Answer, PageType],
        *,
        digests: Collection[str],
    ) -> None:
        """`digests` are those of the models that are served."""
        self._catalog = catalog
        self._journal = journal
        self._restore = restore
        self._digests = digests
        self._threads = anyio.CapacityLimiter(_WRITERS)
        if journal is not None:
            self._making = Together(journal.create, self._threads, limit=MADE_AT_A_TIME)
            self._finding = Together(journal.find_all, self._threads, limit=FOUND_AT_A_TIME)
        self._leaving: dict[str, anyio.Event] = {}

    async def create(self, memory: NewMemory) -> MemoryRecord[Answer, PageType]:
        """The memory of that name, model and settings, on the disk if there is a store, made now if there is none.

        Raises:
            Conflict: the name is taken by a memory of another model, or with other settings.
            StoreFailed: it could not be made.
        """
        await self._left(memory.name)
        if self._journal is not None and memory.name not in self._catalog:
            with _owned(self._journal, memory.name):
                made = await self._making.ask(memory)
            self._adopt(made)
        return self._catalog.create(
            memory.name, model=memory.model, model_digest=memory.model_digest, settings=memory.settings
        )

    async def get(self, name: str, *, any_model: bool = False) -> MemoryRecord[Answer, PageType]:
        """The memory of that name, whose model is served unless `any_model` will do.

        Raises:
            MemoryNotFound: there is none.
            ModelGone: it was made from a model that is not served.
            StoreFailed: the store could not be asked.
        """
        await self._left(name)
        if self._journal is not None and name not in self._catalog:
            found = await self._found(self._journal, name)
            if found is not None and name not in self._leaving:
                self._adopt(found)
        record = self._catalog.get(name)
        if not any_model:
            self._check(record)
        return record

    async def ask(self, question: Callable[[Journal], T]) -> T:
        """What the journal answers, in a thread.

        Raises:
            NotKept: there is no store.
        """
        if (journal := self._journal) is None:
            raise NotKept("this server keeps no memories: start it without `--durable no`")
        return await anyio.to_thread.run_sync(question, journal, limiter=self._threads)

    async def remove(self, name: str) -> MemoryRecord[Answer, PageType]:
        """Takes a memory out, to be forgotten by its store; until it `left`, whoever asks for the name waits.

        Raises:
            MemoryNotFound: there is none.
        """
        await self._left(name)
        if self._journal is not None and name not in self._catalog:
            found = await self._found(self._journal, name)
            if found is not None and name not in self._leaving:
                self._adopt(found)
        record = self._catalog.remove(name)
        self._leaving[name] = anyio.Event()
        return record

    def left(self, name: str) -> None:
        """The store has forgotten a memory that was removed, or has failed to."""
        self._leaving.pop(name).set()

    async def expired(self, *, size: int = EXPIRED_AT_A_TIME) -> Sequence[str]:
        """Names of up to `size` memories whose time is over, of all shards."""
        if (journal := self._journal) is None:
            return self._catalog.expired(now_s=time.time(), size=size)
        return await anyio.to_thread.run_sync(lambda: journal.expired(size=size), limiter=self._threads)

    def gone(self, record: MemoryRecord[Answer, PageType]) -> None:
        """A memory whose time was over was forgotten."""
        if self._catalog.find(record.name) is record:
            self._catalog.remove(record.name)

    async def page(self, *, prefix: str, after: str, size: int) -> Sequence[MemoryRecord[Answer, PageType]]:
        """Up to `size` memories with that prefix and names beyond `after`, in the order of names."""
        journal = self._journal
        if journal is None:
            return self._catalog.page(prefix=prefix, after=after, size=size)
        found = await anyio.to_thread.run_sync(
            lambda: journal.listed(prefix=prefix, after=after, size=size), limiter=self._threads
        )
        return [self._restore(one) for one in found]

    def part(self, groups: Collection[int]) -> Sequence[MemoryRecord[Answer, PageType]]:
        """The memories at hand of these groups, which are another shard's from now on."""
        return self._catalog.part(lambda name: group_of(name) in groups)

    def _check(self, memory: MemoryRecord[Answer, PageType]) -> None:
        if memory.model_digest not in self._digests:
            raise ModelGone(
                f"memory {memory.name!r} was made from model {memory.model} ({memory.model_digest}), which this server "
                "does not have: put its file in the folder of --models and start again, rebuild the memory of another "
                "model, or delete it"
            )

    def _adopt(self, stored: StoredMemory) -> None:
        if stored.name not in self._catalog:
            self._catalog.adopt(self._restore(stored))

    async def _found(self, journal: Journal, name: str) -> StoredMemory | None:
        with _owned(journal, name):
            return await self._finding.ask(name)

    async def _left(self, name: str) -> None:
        while (event := self._leaving.get(name)) is not None:
            await event.wait()
