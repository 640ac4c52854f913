"""Memories of a shard by name: those at hand, and those that are in the backend store alone."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeAlias, TypeVar

import anyio.to_thread

from attractor_server.errors import ModelGone, NotKept, OwnerChanged, QuotaExceeded
from attractor_server.memories.catalog import Catalog
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.records import NewMemory, StoredMemory
from attractor_server.memories.store import MemoryStore
from attractor_server.sharding.slots import group_of
from attractor_server.storage.memory_store import SqlMemoryStore

Wish = TypeVar("Wish")

Granted = TypeVar("Granted")


@dataclass(eq=False)
class _Waiting(Generic[Wish, Granted]):
    wish: Wish
    granted: list[Granted] = field(default_factory=list)


class Coalescer(Generic[Wish, Granted]):
    """Coalesces concurrent calls into one batched call in a worker thread: that is woken once, not once for each."""

    def __init__(
        self, grant: Callable[[Sequence[Wish]], Sequence[Granted]], threads: anyio.CapacityLimiter, *, limit: int
    ) -> None:
        """`grant` has an answer for each of up to `limit` wishes; it is called in one of the `threads`."""
        self._grant = grant
        self._threads = threads
        self._limit = limit
        self._waiting: dict[_Waiting[Wish, Granted], None] = {}
        self._asking = anyio.Lock()

    async def ask(self, wish: Wish) -> Granted:
        """Return the answer to this wish. An error reaches only the caller that asked for all; the others ask again."""
        mine: _Waiting[Wish, Granted] = _Waiting(wish)
        try:
            while not mine.granted:
                self._waiting[mine] = None
                async with self._asking:
                    while mine in self._waiting:
                        await self._ask_for_some()
        finally:
            self._waiting.pop(mine, None)
        return mine.granted[0]

    async def _ask_for_some(self) -> None:
        some = list(islice(self._waiting, self._limit))
        for one in some:
            del self._waiting[one]
        wishes = [one.wish for one in some]
        answers = await anyio.to_thread.run_sync(self._grant, wishes, limiter=self._threads)
        for one, answer in zip(some, answers, strict=True):
            one.granted.append(answer)


T = TypeVar("T")

Restore: TypeAlias = Callable[[StoredMemory], MemoryRecord]

EXPIRED_AT_A_TIME = 1000

MADE_AT_A_TIME = 1000

FOUND_AT_A_TIME = 100
"""Commits wait meanwhile"""

_WRITERS = 1
"""Threads that wait for the store; its one connection takes one at a time anyway"""


@contextmanager
def _check_ownership(store: SqlMemoryStore, name: str) -> Iterator[None]:
    """Check that the memory is this shard's from the beginning of the block to its end, without a break.

    Raises:
        OwnerChanged: it was not.
    """
    epoch = store.ownership.epoch(name)
    yield
    if store.ownership.epoch(name) != epoch:
        raise OwnerChanged(f"memory {name!r} was with another shard meanwhile; try again in a moment")


class MemoryDirectory:
    """Looks a memory up in the catalog first and then in the store, if there is one. Lives on one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        store: SqlMemoryStore | None,
        restore: Restore,
        *,
        digests: Collection[str],
    ) -> None:
        """`digests` are those of the models that are served."""
        self._catalog = catalog
        self._store = store
        self._restore = restore
        self._digests = digests
        self._threads = anyio.CapacityLimiter(_WRITERS)
        if store is not None:
            self._making = Coalescer(store.create_each, self._threads, limit=MADE_AT_A_TIME)
            self._finding = Coalescer(store.find_all, self._threads, limit=FOUND_AT_A_TIME)
        self._leaving: dict[str, anyio.Event] = {}

    async def create(self, memory: NewMemory) -> MemoryRecord:
        """Return the memory of that name, model and settings, in the store if there is one, made now if there is none.

        Raises:
            Conflict: the name is taken by a memory of another model, or with other settings.
            QuotaExceeded: its namespace has as many as it may.
            StoreFailed: it could not be made.
        """
        await self._wait_for_removal(memory.name)
        if self._store is not None and memory.name not in self._catalog:
            with _check_ownership(self._store, memory.name):
                made = await self._making.ask(memory)
            if isinstance(made, QuotaExceeded):
                raise made
            self._adopt(made)
        return self._catalog.create(
            memory.name, model=memory.model, model_digest=memory.model_digest, settings=memory.settings
        )

    async def get(self, name: str, *, any_model: bool = False) -> MemoryRecord:
        """Return the memory of that name, whose model is served unless `any_model` will do.

        Raises:
            MemoryNotFound: there is none.
            ModelGone: it was made from a model that is not served.
            StoreFailed: the store could not be asked.
        """
        await self._wait_for_removal(name)
        if self._store is not None and name not in self._catalog:
            found = await self._look_up(self._store, name)
            if found is not None and name not in self._leaving:
                self._adopt(found)
        record = self._catalog.get(name)
        if not any_model:
            self._check(record)
        return record

    async def ask(self, question: Callable[[MemoryStore], T]) -> T:
        """Return what the store answers, in a thread.

        Raises:
            NotKept: there is no store.
        """
        if (store := self._store) is None:
            raise NotKept("this server keeps no memories: start it without `--durable no`")
        return await anyio.to_thread.run_sync(question, store, limiter=self._threads)

    async def remove(self, name: str) -> MemoryRecord:
        """Take a memory out, to be deleted; until `finish_removal`, whoever asks for the name waits.

        Raises:
            MemoryNotFound: there is none.
        """
        await self._wait_for_removal(name)
        if self._store is not None and name not in self._catalog:
            found = await self._look_up(self._store, name)
            if found is not None and name not in self._leaving:
                self._adopt(found)
        record = self._catalog.remove(name)
        self._leaving[name] = anyio.Event()
        return record

    def finish_removal(self, name: str) -> None:
        """Note that the store has forgotten a memory that was removed, or has failed to."""
        self._leaving.pop(name).set()

    async def find_expired_names(self, *, size: int = EXPIRED_AT_A_TIME) -> Sequence[str]:
        """Return the names of up to `size` memories whose time is over, of all shards."""
        if (store := self._store) is None:
            return self._catalog.find_expired(now_s=time.time(), size=size)
        return await anyio.to_thread.run_sync(lambda: store.find_expired(size=size), limiter=self._threads)

    async def find_with_expired_items(self, *, size: int = EXPIRED_AT_A_TIME) -> Sequence[str]:
        """Return the names of up to `size` memories that have items whose time is over, of all shards."""
        if (store := self._store) is None:
            return []
        return await anyio.to_thread.run_sync(lambda: store.find_with_expired(size=size), limiter=self._threads)

    def forget(self, record: MemoryRecord) -> None:
        """Take out a memory that was deleted since its time was over."""
        if self._catalog.find(record.name) is record:
            self._catalog.remove(record.name)

    @property
    def count(self) -> int:
        """Memories at hand."""
        return len(self._catalog)

    async def list_page(self, *, prefix: str, after: str, size: int, flat: bool = False) -> Sequence[MemoryRecord]:
        """Return up to `size` memories with that prefix and names beyond `after`, in the order of names.

        Where `flat`, of those whose names have no slash.
        """
        store = self._store
        if store is None:
            return self._catalog.page(prefix=prefix, after=after, size=size, flat=flat)
        found = await anyio.to_thread.run_sync(
            lambda: store.list_by_name(prefix=prefix, after=after, size=size, flat=flat), limiter=self._threads
        )
        return [self._restore(one) for one in found]

    def release(self, groups: Collection[int]) -> Sequence[MemoryRecord]:
        """Take out the memories at hand of these groups, which are another shard's from now on."""
        return self._catalog.part(lambda name: group_of(name) in groups)

    def _check(self, memory: MemoryRecord) -> None:
        if memory.model_digest not in self._digests:
            raise ModelGone(
                f"memory {memory.name!r} was made from model {memory.model} ({memory.model_digest}), which this server "
                "does not have: put its file in the folder of --models and start again, rebuild the memory of another "
                "model, or delete it"
            )

    def _adopt(self, stored: StoredMemory) -> None:
        if stored.name not in self._catalog:
            self._catalog.adopt(self._restore(stored))

    async def _look_up(self, store: SqlMemoryStore, name: str) -> StoredMemory | None:
        with _check_ownership(store, name):
            return await self._finding.ask(name)

    async def _wait_for_removal(self, name: str) -> None:
        while (event := self._leaving.get(name)) is not None:
            await event.wait()
