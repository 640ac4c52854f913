"""The client for code without an event loop: the asynchronous one, on a loop in a thread of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context
from enum import Enum, auto
from functools import partial, wraps
from types import TracebackType
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar, TypeVarTuple, Unpack

from anyio import CapacityLimiter, to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from attractor._client import AsyncClient, connect
from attractor._copies import FilePath
from attractor._errors import AttractorError, Closed
from attractor._memory import Memory
from attractor._paging import Asked
from attractor._settings import Retry
from attractor._stream import MemoryStream
from attractor._types import Cue, MemoryInfo, Patterns, Recall, StoreResult

T = TypeVar("T")
Inner = TypeVar("Inner")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


class _End(Enum):
    END = auto()


class _EventLoop(asyncio.SelectorEventLoop):
    """Drops what comes when it is closed.

    All loops of a process share gRPC's queue of events; a late one for a closed loop would raise in another.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)


class Loop:
    """The event loop's thread, while the client is open."""

    def __init__(self) -> None:
        self.portal: BlockingPortal | None = None

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Runs an asynchronous function to its end.

        Raises:
            Closed: the client is not open.
        """
        if (portal := self.portal) is None:
            raise Closed("the client is not open: use it inside `with attractor.Client(…) as client`")
        try:
            return portal.call(function)
        except (RuntimeError, CancelledError) as error:
            if self.portal is not None or isinstance(error, AttractorError):
                raise
            raise Closed("the client was closed during the call") from error  # by another thread

    def iterate(self, start: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Takes one item after another; `start` is called at once."""
        return self._items(self.call(partial(_call, start)))

    def _items(self, items: AsyncIterator[T]) -> Iterator[T]:
        while (item := self.call(partial(_next, items))) is not _End.END:
            yield item


class Face(Generic[Inner]):
    """An asynchronous object, and the loop it lives on."""

    def __init__(self, loop: Loop, inner: Inner) -> None:
        """Made by `Client`."""
        self._loop = loop
        self._inner = inner

    def __repr__(self) -> str:
        return f"<synchronous {self._inner!r}>"


def _blocking(method: Callable[Concatenate[Inner, P], Awaitable[T]]) -> Callable[Concatenate[Face[Inner], P], T]:
    """The same method, waited for."""

    @wraps(method)
    def call(face: Face[Inner], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return face._loop.call(partial(method, face._inner, *args, **kwargs))  # noqa: SLF001

    return call


class SyncMemoryStream(Face[MemoryStream], AbstractContextManager["SyncMemoryStream"]):
    """`MemoryStream`, without async. The iterables are read in a worker thread, ahead of the answers."""

    _resources: ExitStack

    def __enter__(self) -> Self:
        self._resources = ExitStack()
        portal = self._loop.portal
        if portal is None:
            raise Closed("the client is not open")
        self._resources.enter_context(portal.wrap_async_context_manager(self._inner))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def store(self, batches: Iterable[Patterns]) -> Iterator[StoreResult]:
        """Stores each item; yields the results in the same order."""
        return self._loop.iterate(partial(self._inner.store, _in_thread(batches)))

    def query(
        self,
        cues: Iterable[Patterns | Cue],
        *,
        known: Patterns | None = None,
        hold: bool = True,
        steps: int = 0,
        trajectory: bool = False,
    ) -> Iterator[Recall]:
        """Completes each item; yields the recalls in the same order."""
        query = partial(self._inner.query, _in_thread(cues), known=known, hold=hold, steps=steps, trajectory=trajectory)
        return self._loop.iterate(query)


class SyncMemory(Face[Memory]):
    """`Memory`, without async."""

    info = _blocking(Memory.info)
    model = _blocking(Memory.model)
    store = _blocking(Memory.store)
    erase = _blocking(Memory.erase)
    query = _blocking(Memory.query)
    recognize = _blocking(Memory.recognize)
    snapshot = _blocking(Memory.snapshot)
    snapshots = _blocking(Memory.snapshots)
    forget_snapshot = _blocking(Memory.forget_snapshot)
    restore = _blocking(Memory.restore)
    rebuild = _blocking(Memory.rebuild)
    consolidate = _blocking(Memory.consolidate)
    export = _blocking(Memory.export)

    def fork(self, name: str, *, tag: str | None = None, timeout_s: float | None = None) -> "SyncMemory":
        """As `Memory.fork`."""
        return SyncMemory(self._loop, self._loop.call(partial(self._inner.fork, name, tag=tag, timeout_s=timeout_s)))

    @property
    def name(self) -> str:
        """What the memory is called."""
        return self._inner.name

    def stream(self, *, in_flight_patterns: int = 1024, timeout_s: float | None = None) -> SyncMemoryStream:
        """A context manager for storing and querying many patterns without waiting for each answer."""
        stream = self._inner.stream(in_flight_patterns=in_flight_patterns, timeout_s=timeout_s)
        return SyncMemoryStream(self._loop, stream)


class Client(Face[AsyncClient], AbstractContextManager["Client"]):
    """`connect` without async: `with attractor.Client("localhost:7171") as client`. Threads may share it."""

    def __init__(  # noqa: PLR0913
        self,
        address: str,
        *,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        retry: Retry | None = None,
        in_flight_patterns: int = 4096,
        direct: bool = True,
    ) -> None:
        """As `connect`."""
        inner = connect(
            address,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            retry=retry,
            in_flight_patterns=in_flight_patterns,
            direct=direct,
        )
        super().__init__(Loop(), inner)
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            options = {"loop_factory": _EventLoop}
            portal = resources.enter_context(start_blocking_portal("asyncio", options, name="attractor client"))
            resources.enter_context(portal.wrap_async_context_manager(self._inner))
            self._loop.portal = portal
            resources.callback(setattr, self._loop, "portal", None)
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    delete_memory = _blocking(AsyncClient.delete_memory)
    models = _blocking(AsyncClient.models)
    model = _blocking(AsyncClient.model)

    def create_memory(
        self, name: str, *, model: str, timeout_s: float | None = None, **settings: Unpack[Asked]
    ) -> SyncMemory:
        """As `AsyncClient.create_memory`."""
        create = partial(self._inner.create_memory, name, model=model, timeout_s=timeout_s, **settings)
        return SyncMemory(self._loop, self._loop.call(create))

    def get_memory(self, name: str, *, timeout_s: float | None = None) -> SyncMemory:
        """As `AsyncClient.get_memory`."""
        return SyncMemory(self._loop, self._loop.call(partial(self._inner.get_memory, name, timeout_s=timeout_s)))

    def import_memory(self, path: FilePath, *, name: str | None = None, timeout_s: float | None = None) -> SyncMemory:
        """As `AsyncClient.import_memory`."""
        made = self._loop.call(partial(self._inner.import_memory, path, name=name, timeout_s=timeout_s))
        return SyncMemory(self._loop, made)

    def memory(self, name: str) -> SyncMemory:
        """As `AsyncClient.memory`."""
        return SyncMemory(self._loop, self._inner.memory(name))

    def memories(self, prefix: str = "", *, timeout_s: float | None = None) -> Iterator[MemoryInfo]:
        """As `AsyncClient.memories`."""
        return self._loop.iterate(partial(self._inner.memories, prefix, timeout_s=timeout_s))


async def _call(start: Callable[[], T]) -> T:  # on the loop, to which what it makes belongs
    return start()


async def _next(items: AsyncIterator[T]) -> T | _End:
    return await anext(items, _End.END)


async def _in_thread(items: Iterable[T]) -> AsyncIterator[T]:
    """The items, from a worker thread: to make one may block, or use this very client."""
    in_thread = partial(to_thread.run_sync, abandon_on_cancel=True, limiter=CapacityLimiter(1))
    iterator = await in_thread(partial(iter, items))
    while (item := await in_thread(partial(next, iterator, _End.END))) is not _End.END:
        yield item
