"""A task group for the length of an `async with` that leaves the caller's own exceptions as they are."""

from asyncio import CancelledError
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import anyio
from anyio.abc import TaskGroup


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
        if isinstance(error, CancelledError):
            return await self._tasks.__aexit__(kind, error, traceback)
        await self._tasks.__aexit__(None, None, None)
        return None
