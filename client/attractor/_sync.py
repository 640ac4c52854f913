"""The client for code without an event loop: the asynchronous one, on a loop in a thread of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial, wraps
from types import TracebackType
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from anyio import CapacityLimiter, to_thread

from attractor._client import AsyncClient, connect
from attractor._errors import Closed, WrongProcess
from attractor._loop_thread import End, Loop
from attractor._memory import Memory
from attractor._memory_settings import Asked
from attractor._pipeline import MemoryStream
from attractor._settings import Retry, Settings
from attractor._snapshots import FilePath
from attractor._types import Cue, MemoryInfo, Patterns, Recall, StoreResult

T = TypeVar("T")
Inner = TypeVar("Inner")
P = ParamSpec("P")


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

    def __enter__(self) -> Self:
        self._loop.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(Closed, WrongProcess):  # then there is nothing left to leave
            self._loop.call(partial(self._inner.__aexit__, None, None, None))

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
    """`connect` without async: `with attractor.Client("localhost:7171") as client`. Threads may share it.

    What `AsyncClient` says of opening again, copies and forks holds for it, too.
    """

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

    def __reduce__(self) -> "tuple[Callable[..., Client], tuple[object, ...]]":
        _, told = self._inner.__reduce__()
        return _unopened, (type(self), *told)

    def __enter__(self) -> Self:
        """Open the client, as `AsyncClient` is, and a thread for it."""
        self._loop.open(self._inner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.close()

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


def _unopened(kind: type[Client], address: str, settings: Settings) -> Client:
    client = kind.__new__(kind)
    Face.__init__(client, Loop(), AsyncClient(address, settings))
    return client


async def _in_thread(items: Iterable[T]) -> AsyncIterator[T]:
    """The items, from a worker thread: to make one may block, or use this very client."""
    in_thread = partial(to_thread.run_sync, abandon_on_cancel=True, limiter=CapacityLimiter(1))
    iterator = await in_thread(partial(iter, items))
    while (item := await in_thread(partial(next, iterator, End.END))) is not End.END:
        yield item
