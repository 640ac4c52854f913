"""The synchronous client and memory: the asynchronous ones, on an event loop in a thread of their own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial, wraps
from types import TracebackType
from typing import Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, Unpack

from anyio import CapacityLimiter, to_thread

from attractor._client import AsyncClient, connect
from attractor._errors import Closed, WrongProcess
from attractor._filters import Filter
from attractor._items import AsyncItems
from attractor._loop_thread import End, LoopThread
from attractor._memory import AsyncMemory
from attractor._memory_settings import RequestedSettings
from attractor._pipeline import AsyncMemoryStream
from attractor._settings import Retry, Settings
from attractor._snapshots import FilePath
from attractor._tls import TLS
from attractor._token import Token
from attractor._types import Cue, KeptItem, MemoryInfo, Patterns, Recall, StoreResult

T = TypeVar("T")
Inner = TypeVar("Inner")
P = ParamSpec("P")


class SyncWrapper(Generic[Inner]):
    """An asynchronous object, and the thread with its event loop."""

    def __init__(self, loop: LoopThread, inner: Inner) -> None:
        """Use `Client`."""
        self._loop = loop
        self._inner = inner

    def __repr__(self) -> str:
        return f"<synchronous {self._inner!r}>"


def _make_blocking(
    method: Callable[Concatenate[Inner, P], Awaitable[T]],
) -> Callable[Concatenate[SyncWrapper[Inner], P], T]:
    """Return a method that calls the asynchronous one and waits for its result."""

    @wraps(method)
    def call(wrapper: SyncWrapper[Inner], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return wrapper._loop.call(partial(method, wrapper._inner, *args, **kwargs))  # noqa: SLF001

    return call


class MemoryStream(SyncWrapper[AsyncMemoryStream], AbstractContextManager["MemoryStream"]):
    """`AsyncMemoryStream` without async. The iterables are read in a worker thread, ahead of the results."""

    def __enter__(self) -> Self:
        self._loop.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(Closed, WrongProcess):  # then there is nothing left to leave
            self._loop.call(partial(self._inner.__aexit__, None, None, None))

    def store(self, batches: Iterable[Patterns]) -> Iterator[StoreResult]:
        """Store each item; yield the results in the same order."""
        return self._loop.iterate(partial(self._inner.store, _iter_in_thread(batches)))

    def query(  # noqa: PLR0913 - as those of a memory
        self,
        cues: Iterable[Patterns | Cue],
        *,
        known: Patterns | Literal[False] | None = None,
        hold: bool = True,
        steps: int = 0,
        trajectory: bool = False,
        kept: bool | None = None,
    ) -> Iterator[Recall]:
        """Complete each item; yield the recalls in the same order. The arguments are those of `AsyncMemoryStream`."""
        items = _iter_in_thread(cues)
        query = partial(self._inner.query, items, known=known, hold=hold, steps=steps, trajectory=trajectory, kept=kept)
        return self._loop.iterate(query)


class Items(SyncWrapper[AsyncItems]):
    """`AsyncItems` without async."""

    get = _make_blocking(AsyncItems.get)
    count = _make_blocking(AsyncItems.count)
    erase = _make_blocking(AsyncItems.erase)
    touch = _make_blocking(AsyncItems.touch)
    put = _make_blocking(AsyncItems.put)

    def list(
        self,
        *,
        where: Filter | None = None,
        newest_first: bool = False,
        values: bool = False,
        page_size: int = 100,
        timeout_s: float | None = None,
    ) -> Iterator[KeptItem]:
        """Yield the items in the order of storing, or from the newest on, as `AsyncItems.list` does."""
        start = partial(
            self._inner.list,
            where=where,
            newest_first=newest_first,
            values=values,
            page_size=page_size,
            timeout_s=timeout_s,
        )
        return self._loop.iterate(start)


class Memory(SyncWrapper[AsyncMemory]):
    """`AsyncMemory` without async."""

    info = _make_blocking(AsyncMemory.info)
    model = _make_blocking(AsyncMemory.model)
    store = _make_blocking(AsyncMemory.store)
    erase = _make_blocking(AsyncMemory.erase)
    query = _make_blocking(AsyncMemory.query)
    recognize = _make_blocking(AsyncMemory.recognize)
    search = _make_blocking(AsyncMemory.search)
    snapshot = _make_blocking(AsyncMemory.snapshot)
    snapshots = _make_blocking(AsyncMemory.snapshots)
    forget_snapshot = _make_blocking(AsyncMemory.forget_snapshot)
    restore = _make_blocking(AsyncMemory.restore)
    rebuild = _make_blocking(AsyncMemory.rebuild)
    consolidate = _make_blocking(AsyncMemory.consolidate)
    export = _make_blocking(AsyncMemory.export)

    def fork(self, name: str, *, tag: str | None = None, timeout_s: float | None = None) -> "Memory":
        """Make a new memory with all that this one has, as `AsyncMemory.fork` does."""
        return Memory(self._loop, self._loop.call(partial(self._inner.fork, name, tag=tag, timeout_s=timeout_s)))

    @property
    def name(self) -> str:
        """Name of the memory."""
        return self._inner.name

    @property
    def items(self) -> Items:
        """Items that the memory keeps, as `AsyncMemory.items` has them."""
        return Items(self._loop, self._inner.items)

    def stream(self, *, in_flight_patterns: int = 1024, timeout_s: float | None = None) -> MemoryStream:
        """Return a context manager for storing and querying many patterns without waiting for each result."""
        stream = self._inner.stream(in_flight_patterns=in_flight_patterns, timeout_s=timeout_s)
        return MemoryStream(self._loop, stream)


class Client(SyncWrapper[AsyncClient], AbstractContextManager["Client"]):
    """`AsyncClient` without async: `with attractor.Client("localhost:7171") as client`. Threads may share it.

    Opening again, copies and forks work as with `AsyncClient`.
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
        use_proxy: bool = False,
        tls: TLS | bool | None = None,
        token: Token | None = None,
        plaintext_token: bool = False,
    ) -> None:
        """Take the arguments of `connect`."""
        inner = connect(
            address,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            retry=retry,
            in_flight_patterns=in_flight_patterns,
            direct=direct,
            use_proxy=use_proxy,
            tls=tls,
            token=token,
            plaintext_token=plaintext_token,
        )
        super().__init__(LoopThread(), inner)

    def __reduce__(self) -> "tuple[Callable[..., Client], tuple[object, ...]]":
        _, arguments = self._inner.__reduce__()
        return _make_unopened, (type(self), *arguments)

    def __enter__(self) -> Self:
        """Open the client, as `AsyncClient` is, and a thread for it."""
        self._loop.open(self._inner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.close()

    delete_memory = _make_blocking(AsyncClient.delete_memory)
    delete_memories = _make_blocking(AsyncClient.delete_memories)
    search = _make_blocking(AsyncClient.search)
    models = _make_blocking(AsyncClient.models)
    model = _make_blocking(AsyncClient.model)

    def create_memory(
        self, name: str, *, model: str, timeout_s: float | None = None, **settings: Unpack[RequestedSettings]
    ) -> Memory:
        """Create a memory, or return the one that is there, as `AsyncClient.create_memory` does."""
        create = partial(self._inner.create_memory, name, model=model, timeout_s=timeout_s, **settings)
        return Memory(self._loop, self._loop.call(create))

    def get_memory(self, name: str, *, timeout_s: float | None = None) -> Memory:
        """Return the memory of that name, as `AsyncClient.get_memory` does."""
        return Memory(self._loop, self._loop.call(partial(self._inner.get_memory, name, timeout_s=timeout_s)))

    def import_memory(self, path: FilePath, *, name: str | None = None, timeout_s: float | None = None) -> Memory:
        """Make a new memory from a file, as `AsyncClient.import_memory` does."""
        memory = self._loop.call(partial(self._inner.import_memory, path, name=name, timeout_s=timeout_s))
        return Memory(self._loop, memory)

    def memory(self, name: str) -> Memory:
        """Return the memory of that name without asking the server, as `AsyncClient.memory` does."""
        return Memory(self._loop, self._inner.memory(name))

    def memories(self, prefix: str = "", *, timeout_s: float | None = None) -> Iterator[MemoryInfo]:
        """Yield the memories whose names start with `prefix`, as `AsyncClient.memories` does."""
        return self._loop.iterate(partial(self._inner.memories, prefix, timeout_s=timeout_s))


def _make_unopened(kind: type[Client], address: str, settings: Settings) -> Client:
    client = kind.__new__(kind)
    SyncWrapper.__init__(client, LoopThread(), AsyncClient(address, settings))
    return client


async def _iter_in_thread(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield the items from a worker thread: to make one may block, or use this very client."""
    in_thread = partial(to_thread.run_sync, abandon_on_cancel=True, limiter=CapacityLimiter(1))
    iterator = await in_thread(partial(iter, items))
    while (item := await in_thread(partial(next, iterator, End.END))) is not End.END:
        yield item
