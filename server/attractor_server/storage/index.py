"""The memories of a shard by name: those at hand, and those that are in the backend store alone."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from attractor_server.errors import ModelGone, NotKept
from attractor_server.storage.catalog import Answer, Catalog, MemoryRecord, PageType
from attractor_server.storage.journal import Journal
from attractor_server.storage.records import NewMemory, StoredMemory

T = TypeVar("T")
Restore: TypeAlias = Callable[[StoredMemory], MemoryRecord[Answer, PageType]]
EXPIRED_AT_A_TIME = 1000
_WRITERS = 1
"""Threads that wait for the store; its one connection takes one at a time anyway"""


@dataclass(eq=False)
class _Wish:
    """A memory that somebody waits for to be made."""

    memory: NewMemory
    made: list[StoredMemory] = field(default_factory=list)


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
        self._wishes: list[_Wish] = []
        self._making = anyio.Lock()
        self._leaving: dict[str, anyio.Event] = {}

    async def create(self, memory: NewMemory) -> MemoryRecord[Answer, PageType]:
        """The memory of that name, model and settings, on the disk if there is a store, made now if there is none.

        Raises:
            Conflict: the name is taken by a memory of another model, or with other settings.
            StoreFailed: it could not be made.
        """
        await self._left(memory.name)
        if self._journal is not None and memory.name not in self._catalog:
            self._adopt(await self._made(self._journal, memory))
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
        return [self._catalog.find(one.name) or self._restore(one) for one in found]

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
        return await anyio.to_thread.run_sync(journal.find, name, limiter=self._threads)

    async def _left(self, name: str) -> None:
        while (event := self._leaving.get(name)) is not None:
            await event.wait()

    async def _made(self, journal: Journal, memory: NewMemory) -> StoredMemory:
        """Whoever comes first makes what all have wished for by then, in one transaction."""
        wish = _Wish(memory)
        while not wish.made:
            if wish not in self._wishes:  # a new one, or one of a transaction that failed
                self._wishes.append(wish)
            async with self._making:
                if wish in self._wishes:
                    await self._make(journal)
        return wish.made[0]

    async def _make(self, journal: Journal) -> None:
        wishes, self._wishes = self._wishes, []
        memories = [wish.memory for wish in wishes]
        made = await anyio.to_thread.run_sync(journal.create, memories, limiter=self._threads)
        for wish, stored in zip(wishes, made, strict=True):
            wish.made.append(stored)
