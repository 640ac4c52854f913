"""The text memory without async."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from attractor import Filter
from attractor._loop_thread import LoopThread  # the same version, always
from attractor_agents.encoders import Encoder
from attractor_agents.memory import AgentMemory
from attractor_agents.types import Note

T = TypeVar("T")
P = ParamSpec("P")


def _make_blocking(
    method: Callable[Concatenate[AgentMemory, P], Awaitable[T]],
) -> "Callable[Concatenate[SyncAgentMemory, P], T]":
    """Return a method that calls the asynchronous one and waits for its result."""

    @wraps(method)
    def call(memory: "SyncAgentMemory", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return memory._loop.call(partial(method, memory._inner, *args, **kwargs))  # noqa: SLF001

    return call


class SyncAgentMemory(AbstractContextManager["SyncAgentMemory"]):
    """`AgentMemory` without async: `with SyncAgentMemory("localhost:7171", space="ada") as memory`.

    Threads may share it.
    """

    def __init__(
        self,
        address: str,
        *,
        space: str,
        encoder: Encoder | None = None,
        fail_open: bool = False,
        **options: Any,  # noqa: ANN401 - those of attractor.connect
    ) -> None:
        """Take the arguments of `AgentMemory.connect`."""
        self._inner = AgentMemory.connect(address, space=space, encoder=encoder, fail_open=fail_open, **options)
        self._loop = LoopThread()
        self._opens = True

    def __repr__(self) -> str:
        return f"<synchronous {self._inner!r}>"

    def __enter__(self) -> Self:
        if self._opens:
            self._loop.open(self._inner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opens:
            self._loop.close()

    @property
    def space(self) -> str:
        """Name of the memory on the server."""
        return self._inner.space

    remember = _make_blocking(AgentMemory.remember)
    remember_all = _make_blocking(AgentMemory.remember_all)
    recall = _make_blocking(AgentMemory.recall)
    nearest = _make_blocking(AgentMemory.nearest)
    seen = _make_blocking(AgentMemory.seen)
    get = _make_blocking(AgentMemory.get)
    count = _make_blocking(AgentMemory.count)
    update = _make_blocking(AgentMemory.update)
    forget = _make_blocking(AgentMemory.forget)
    checkpoint = _make_blocking(AgentMemory.checkpoint)
    rollback = _make_blocking(AgentMemory.rollback)
    delete = _make_blocking(AgentMemory.delete)

    def list(
        self,
        *,
        filter: Filter | None = None,  # noqa: A002
        since: datetime | None = None,
        newest_first: bool = False,
    ) -> Iterator[Note]:
        """Yield all texts, or those that conditions hold for, as `AgentMemory.list` does."""
        return self._loop.iterate(partial(self._inner.list, filter=filter, since=since, newest_first=newest_first))

    def branch(self, name: str, *, tag: str | None = None) -> "SyncAgentMemory":
        """Return a memory with all that this one has, as `AgentMemory.branch` does; valid while this one is open."""
        return self._beside(self._loop.call(partial(self._inner.branch, name, tag=tag)))

    def at(self, space: str) -> "SyncAgentMemory":
        """Return the memory of another space; valid while this one is open."""
        return self._beside(self._inner.at(space))

    def _beside(self, inner: AgentMemory) -> "SyncAgentMemory":
        other = SyncAgentMemory.__new__(SyncAgentMemory)
        other._inner, other._loop, other._opens = inner, self._loop, False  # noqa: SLF001
        return other
