"""Signals, background tasks, and contexts in tasks of their own; the caller's cancellation told from gRPC's."""

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

Value = TypeVar("Value")


class Signal:
    """Wakes all who wait, each time it is given; costs next to nothing while nobody waits.

    A waiter that finds its condition false waits for the next signal: between the look at the condition and `wait`
    there must be no other await. Use it from one event loop.
    """

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        """Wake all who wait now."""
        if self._event is not None:
            event, self._event = self._event, None
            event.set()

    async def wait(self) -> None:
        """Wait for the next time it is given."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


async def raise_if_cancelled() -> None:
    """Raise the caller's own cancellation, if there is one. Await it where a call raised CancelledError.

    grpc.aio raises it also for a call that was closed, and swallows a cancellation that it then raises anew, unknown to
    the scope it came from (grpc/grpc#43502).
    """
    await checkpoint_if_cancelled()
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class BackgroundTasks(AbstractAsyncContextManager[TaskGroup]):
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


class ContextTask(AbstractAsyncContextManager[Value], Generic[Value]):
    """Enters and leaves another context manager in one task, whichever tasks enter and leave this one.

    Task groups and cancel scopes have to end in the task that began them. Where that is the user's, a block that is
    left elsewhere (a fixture's end, the next cell of a notebook) or under a timeout breaks the task for good.
    """

    def __init__(self, inner: AbstractAsyncContextManager[Value]) -> None:
        """Enter it once."""
        self._inner = inner

    async def __aenter__(self) -> Value:
        self._left = asyncio.Event()
        entered: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(entered), name=f"inside {type(self._inner).__name__}")
        try:
            await asyncio.wait((self._task, entered), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await self._wait_task()
            raise
        if not entered.done():
            self._task.result()
        return entered.result()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._left.set()
        await self._wait_task()
        if not self._task.cancelled():  # as all tasks are where the loop ends
            self._task.result()
        return None

    async def _run(self, entered: "asyncio.Future[Value]") -> None:
        async with self._inner as value:
            entered.set_result(value)
            await self._left.wait()

    async def _wait_task(self) -> None:
        """Wait for the task, even in a scope that is cancelled; it ends all the same where the wait is cut short."""
        with anyio.CancelScope(shield=True):
            await asyncio.wait((self._task,))
