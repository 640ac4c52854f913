"""Pipelines: many stores or queries under way, results in the order of the items."""

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, Literal, Protocol, Self, TypeAlias, TypeVar

from anyio.abc import TaskGroup

from attractor._affinity import Affinity
from attractor._arrays import PackedPatterns, pack, pack_cues
from attractor._concurrency import BackgroundTasks, ContextTask, Signal
from attractor._connection import Connection
from attractor._errors import ClientOpen, Closed
from attractor._session.calls import PendingCall
from attractor._session.operations import STORE, specify_query
from attractor._session.request import RequestSpec, Result_co
from attractor._types import Cue, ModelInfo, Patterns, Recall, StoreResult

Given = TypeVar("Given")
Source: TypeAlias = AsyncIterable[Given] | Iterable[Given]


class _Closable(Protocol):
    @property
    def finished(self) -> bool: ...

    def close(self) -> None: ...


class AsyncMemoryStream(AbstractAsyncContextManager["AsyncMemoryStream"]):
    """Stores and queries from iterators, sent ahead of their results as far as the bound allows.

    Leaving the block gives up items that have not been answered; such a store may or may not have been applied.
    """

    def __init__(
        self,
        connection: Connection,
        memory: str,
        get_model: Callable[[float], Awaitable[ModelInfo]],
        *,
        in_flight_patterns: int,
        timeout_s: float | None,
    ) -> None:
        """Use `AsyncMemory.stream`."""
        self._connection = connection
        self._memory = memory
        self._get_model = get_model
        self._in_flight_patterns = in_flight_patterns
        self._timeout_s = timeout_s
        self._affinity: Affinity | None = None
        self._background: ContextTask[TaskGroup] | None = None
        self._tasks: TaskGroup | None = None
        self._pipelines: list[_Closable] = []

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise ClientOpen("this stream is open already: leave it first, or make another one")
        await self._get_model(self._connection.start_deadline(self._timeout_s))
        self._affinity = Affinity()
        self._background = ContextTask(BackgroundTasks())
        self._tasks = await self._background.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        background = self._background
        if self._affinity is None or background is None or self._affinity.defunct:
            self._tasks = None
            return None
        self._affinity.check()
        self._tasks = None
        try:
            return await background.__aexit__(kind, error, traceback)
        finally:
            for pipeline in self._pipelines:
                pipeline.close()

    def store(self, batches: Source[Patterns]) -> AsyncIterator[StoreResult]:
        """Store each item of an iterable or async iterable; yield the results in the same order.

        An item that fails raises when its turn comes; those after it that were sent are carried out all the same.
        """
        return self._start_pipeline(batches, STORE, pack)

    def query(  # noqa: PLR0913 - as those of a memory
        self,
        cues: Source[Patterns | Cue],
        *,
        known: Patterns | Literal[False] | None = None,
        hold: bool = True,
        steps: int = 0,
        trajectory: bool = False,
        kept: bool | None = None,
    ) -> AsyncIterator[Recall]:
        """Complete each item of an iterable or async iterable; yield the recalls in the same order.

        `known` applies to every item that is no `Cue` with a mask of its own; all as in `AsyncMemory.query`.
        """
        spec = specify_query(steps, trajectory=trajectory, hold=hold, kept=kept)

        def pack_item(model: ModelInfo, item: Patterns | Cue) -> PackedPatterns:
            cue = item if isinstance(item, Cue) else Cue(item)
            return pack_cues(model, cue.cues, known if cue.known is None else cue.known)

        return self._start_pipeline(cues, spec, pack_item)

    def _start_pipeline(
        self,
        source: Source[Given],
        spec: RequestSpec[Result_co],
        pack_item: Callable[[ModelInfo, Given], PackedPatterns],
    ) -> AsyncIterator[Result_co]:
        if self._tasks is None or self._affinity is None:
            raise Closed("the stream is not open: use it inside its `async with`")
        self._affinity.check()
        pipeline: _Pipeline[Result_co] = _Pipeline(self._in_flight_patterns, self._affinity)
        self._pipelines = [*(other for other in self._pipelines if not other.finished), pipeline]

        async def start_one(item: Given) -> PendingCall[Result_co]:
            model = await self._get_model(self._connection.start_deadline(self._timeout_s))  # it may change on the way
            packed = pack_item(model, item)
            return self._connection.start(self._memory, spec, packed, self._connection.start_deadline(self._timeout_s))

        async def feed() -> None:
            await pipeline.feed(source, start_one)

        self._tasks.start_soon(feed)
        return pipeline


class _Pipeline(AsyncIterator[Result_co], Generic[Result_co]):
    """Queue of calls under way: one task feeds it, the caller iterates.

    It is no generator, since nothing may be suspended inside a scope (PEP 789).
    """

    def __init__(self, limit_patterns: int, affinity: Affinity) -> None:
        self._affinity = affinity
        self._limit = limit_patterns
        self._in_flight = 0
        self._queue: deque[PendingCall[Result_co] | Exception] = deque()
        """Bounded by the patterns under way: each call has at least one."""
        self._ended = False
        self._queue_changed = Signal()
        self._room_changed = Signal()

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self._ended and not self._queue

    async def feed(self, source: Source[Given], start: Callable[[Given], Awaitable[PendingCall[Result_co]]]) -> None:
        """Send the items, waiting where too much is under way; pass a failure on in its place."""
        try:
            if isinstance(source, AsyncIterable):
                async for item in source:
                    await self._feed_one(await start(item))
            else:
                for item in source:
                    await self._feed_one(await start(item))
        except Exception as error:  # of the source, or of an item that cannot be meant
            self._queue.append(error)
        self._ended = True
        self._queue_changed.notify()

    def close(self) -> None:
        """Abandon the calls that wait, and raise Closed for whoever still asks for them. The feeding has ended."""
        if self.finished:
            return
        while self._queue:
            if isinstance(call := self._queue.popleft(), PendingCall):
                call.abandon()
        self._queue.append(Closed("the stream was left before all its items were answered"))
        self._ended = True
        self._queue_changed.notify()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result_co:
        self._affinity.check()
        while not self._queue and not self._ended:
            await self._queue_changed.wait()
        if not self._queue:
            raise StopAsyncIteration
        if isinstance(call := self._queue.popleft(), Exception):
            raise call
        try:
            return await call.wait()
        finally:
            self._in_flight -= call.rows
            self._room_changed.notify()

    async def _feed_one(self, call: PendingCall[Result_co]) -> None:
        self._in_flight += call.rows
        self._queue.append(call)
        self._queue_changed.notify()
        while self._in_flight >= self._limit:
            await self._room_changed.wait()
