"""A context manager that lives in a task of its own, so that its block may be left in any other."""

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeVar

import anyio

Value = TypeVar("Value")


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
