"""Waiting for what other tasks do, and telling a cancellation by the caller from one that gRPC made up."""

import asyncio

import anyio
from anyio.lowlevel import checkpoint_if_cancelled


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
