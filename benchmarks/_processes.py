"""Something that serves, in a process of its own with a shard's event loop, until the end of a block."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import anyio

from attractor_server.loop import loop_options


@contextmanager
def serving(start: Callable[[], Awaitable[str]]) -> Iterator[str]:
    """The address that `start`, a function of a module, gives in the other process."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(start, theirs))
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _run(start: Callable[[], Awaitable[str]], pipe: Connection) -> None:
    async def serve() -> None:
        await asyncio.to_thread(pipe.send, await start())
        await anyio.sleep_forever()

    anyio.run(serve, backend_options=dict(loop_options()))
