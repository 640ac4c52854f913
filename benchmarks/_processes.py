"""Processes that run until the end of a block: servers, and functions that a pipe steers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Self

import anyio

from attractor_server.shard.event_loop import loop_options


@contextmanager
def run_server(start: Callable[[], Awaitable[str]]) -> Iterator[str]:
    """Run `start`, a function of a module, in another process, and yield the address that it returns."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(start, theirs))
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


class Steered:
    """Process of a module's function, which gets a pipe after its arguments, and first says by it that it is ready."""

    def __init__(self, function: Callable[..., None], *arguments: object) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=function, args=(*arguments, theirs))

    def __enter__(self) -> Self:
        self._process.start()
        self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()


def _run(start: Callable[[], Awaitable[str]], pipe: Connection) -> None:
    async def serve() -> None:
        await asyncio.to_thread(pipe.send, await start())
        await anyio.sleep_forever()

    anyio.run(serve, backend_options=dict(loop_options()))
