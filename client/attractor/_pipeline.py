"""Pipelines: many stores or queries under way, answers in the order of the items."""

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

from anyio.abc import TaskGroup

from attractor._affinity import Home
from attractor._concurrency import Background, InOwnTask, Signal
from attractor._errors import ClientOpen, Closed
from attractor._session.calls import Ticket, recalled, stored
from attractor._session.request import Ask, reading
from attractor._types import Cue, ModelInfo, Patterns, Recall, StoreResult

Item = TypeVar("Item")
Answer_co = TypeVar("Answer_co", covariant=True)
Source: TypeAlias = AsyncIterable[Item] | Iterable[Item]


class Streamed(Protocol):
    """What a stream asks of its memory."""

    async def model(self, *, timeout_s: float | None = None) -> ModelInfo: ...

    def start_store(self, model: ModelInfo, patterns: Patterns, timeout_s: float | None) -> Ticket: ...

    def start_query(self, model: ModelInfo, cue: Cue, ask: Ask, timeout_s: float | None) -> Ticket: ...


class _Closing(Protocol):
    @property
    def finished(self) -> bool: ...

    def close(self) -> None: ...


class MemoryStream(AbstractAsyncContextManager["MemoryStream"]):
    """Stores and queries from iterators, sent ahead of their answers as far as the bound allows.

    Leaving the block gives up what has not been answered; such a store may or may not have been applied.
    """

    def __init__(self, memory: Streamed, *, in_flight_patterns: int, timeout_s: float | None) -> None:
        """Made by `Memory.stream`."""
        self._memory = memory
        self._in_flight_patterns = in_flight_patterns
        self._timeout_s = timeout_s
        self._home: Home | None = None
        self._background: InOwnTask[TaskGroup] | None = None
        self._tasks: TaskGroup | None = None
        self._pipelines: list[_Closing] = []

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise ClientOpen("this stream is open already: leave it first, or make another one")
        await self._memory.model(timeout_s=self._timeout_s)
        self._home = Home()
        self._background = InOwnTask(Background())
        self._tasks = await self._background.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        background = self._background
        if self._home is None or background is None or self._home.gone:
            self._tasks = None
            return None
        self._home.check()
        self._tasks = None
        try:
            return await background.__aexit__(kind, error, traceback)
        finally:
            for pipeline in self._pipelines:
                pipeline.close()

    def store(self, batches: Source[Patterns]) -> AsyncIterator[StoreResult]:
        """Stores each item of an iterable or async iterable; yields the results in the same order.

        An item that fails raises when its turn comes; those after it that were sent are carried out all the same.
        """
        return self._pipeline(batches, self._start_store, stored)

    def query(
        self,
        cues: Source[Patterns | Cue],
        *,
        known: Patterns | None = None,
        hold: bool = True,
        steps: int = 0,
        trajectory: bool = False,
    ) -> AsyncIterator[Recall]:
        """Completes each item of an iterable or async iterable; yields the recalls in the same order.

        `known` holds for every item that is no `Cue` with a mask of its own; `hold` as in `Memory.query`.
        """
        ask = reading(steps, trajectory=trajectory, hold=hold)

        def start(model: ModelInfo, item: Patterns | Cue) -> Ticket:
            cue = item if isinstance(item, Cue) else Cue(item)
            cue = cue if cue.known is not None else Cue(cue.cues, known)
            return self._memory.start_query(model, cue, ask, self._timeout_s)

        return self._pipeline(cues, start, recalled)

    def _start_store(self, model: ModelInfo, patterns: Patterns) -> Ticket:
        return self._memory.start_store(model, patterns, self._timeout_s)

    def _pipeline(
        self,
        source: Source[Item],
        start: Callable[[ModelInfo, Item], Ticket],
        finish: Callable[[Ticket], Awaitable[Answer_co]],
    ) -> AsyncIterator[Answer_co]:
        if self._tasks is None or self._home is None:
            raise Closed("the stream is not open: use it inside its `async with`")
        self._home.check()
        pipeline = _Pipeline(finish, self._in_flight_patterns, self._home)
        self._pipelines = [*(other for other in self._pipelines if not other.finished), pipeline]

        async def start_one(item: Item) -> Ticket:
            return start(await self._memory.model(timeout_s=self._timeout_s), item)  # which may change on the way

        async def feed() -> None:
            await pipeline.feed(source, start_one)

        self._tasks.start_soon(feed)
        return pipeline


class _Pipeline(AsyncIterator[Answer_co], Generic[Answer_co]):
    """One task feeds, the caller iterates. No generator: nothing is suspended inside a scope (PEP 789)."""

    def __init__(self, finish: Callable[[Ticket], Awaitable[Answer_co]], limit_patterns: int, home: Home) -> None:
        self._home = home
        self._finish = finish
        self._limit = limit_patterns
        self._under_way = 0
        self._line: deque[Ticket | Exception] = deque()
        """Bounded by the patterns under way: each ticket has at least one."""
        self._ended = False
        self._arrived = Signal()
        self._freed = Signal()

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self._ended and not self._line

    async def feed(self, source: Source[Item], start: Callable[[Item], Awaitable[Ticket]]) -> None:
        """Sends the items, waiting where too much is under way; a failure is passed on in its place."""
        try:
            if isinstance(source, AsyncIterable):
                async for item in source:
                    await self._feed_one(await start(item))
            else:
                for item in source:
                    await self._feed_one(await start(item))
        except Exception as error:  # of the source, or of an item that cannot be meant
            self._line.append(error)
        self._ended = True
        self._arrived.give()

    def close(self) -> None:
        """Gives up what has not been taken, and tells whoever still asks for it. Its feeding has ended."""
        if self.finished:
            return
        while self._line:
            if isinstance(ticket := self._line.popleft(), Ticket):
                ticket.abandon()
        self._line.append(Closed("the stream was left before all its items were answered"))
        self._ended = True
        self._arrived.give()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Answer_co:
        self._home.check()
        while not self._line and not self._ended:
            await self._arrived.wait()
        if not self._line:
            raise StopAsyncIteration
        if isinstance(ticket := self._line.popleft(), Exception):
            raise ticket
        try:
            return await self._finish(ticket)
        finally:
            self._under_way -= ticket.rows
            self._freed.give()

    async def _feed_one(self, ticket: Ticket) -> None:
        self._under_way += ticket.rows
        self._line.append(ticket)
        self._arrived.give()
        while self._under_way >= self._limit:
            await self._freed.wait()
