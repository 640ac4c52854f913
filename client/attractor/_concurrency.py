"""Signals, task groups and tasks of a context manager's own; cancellation by the caller told from gRPC's."""

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

Value = TypeVar("Value")


class Signal:
    """Wakes all who wait, as often as it is given.

    The event is replaced when it is set, never by one who waits, so that nobody is left waiting for an old one. Between
    the look at a condition and `wait` there must be no other await.
    """

    def __init__(self) -> None:
        """Made on the event loop."""
        self._event = anyio.Event()

    def give(self) -> None:
        """Wakes all who wait now."""
        event, self._event = self._event, anyio.Event()
        event.set()

    async def wait(self) -> None:
        """Until the next time it is given."""
        await self._event.wait()


async def raise_if_cancelled() -> None:
    """To be awaited where a call raised CancelledError: raises the caller's own cancellation, if that it was.

    grpc.aio raises it also for a call that was closed, and swallows a cancellation that it then raises anew, unknown to
    the scope it came from (grpc/grpc#43502).
    """
    await checkpoint_if_cancelled()
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Background(AbstractAsyncContextManager[TaskGroup]):
    """Yields a task group; its tasks are cancelled at the end.

    A bare task group would wrap what the caller's block raises in an ExceptionGroup, so that no `except` fits it.
    """

    async def __aenter__(self) -> TaskGroup:
        self._tasks = anyio.create_task_group()
        return await self._tasks.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        if isinstance(error, asyncio.CancelledError):
            return await self._tasks.__aexit__(kind, error, traceback)
        await self._tasks.__aexit__(None, None, None)
        return None


class InOwnTask(AbstractAsyncContextManager[Value], Generic[Value]):
    """Enters and leaves another context manager in one task, whichever tasks enter and leave this one.

    Task groups and cancel scopes have to end in the task that began them. Where that is the user's, a block that is
    left elsewhere (a fixture's end, the next cell of a notebook) or under a timeout breaks the task for good.
    """

    def __init__(self, inner: AbstractAsyncContextManager[Value]) -> None:
        """To be entered once."""
        self._inner = inner

    async def __aenter__(self) -> Value:
        self._left = asyncio.Event()
        entered: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(entered), name=f"inside {type(self._inner).__name__}")
        try:
            await asyncio.wait((self._task, entered), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await self._ended()
            raise
        if not entered.done():
            self._task.result()
        return entered.result()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._left.set()
        await self._ended()
        if not self._task.cancelled():  # as all tasks are where the loop ends
            self._task.result()
        return None

    async def _run(self, entered: "asyncio.Future[Value]") -> None:
        async with self._inner as value:
            entered.set_result(value)
            await self._left.wait()

    async def _ended(self) -> None:
        """Waits for the task, even in a scope that is cancelled; it ends all the same where the wait is cut short."""
        with anyio.CancelScope(shield=True):
            await asyncio.wait((self._task,))
