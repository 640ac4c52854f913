"""A shard in a process of its own, without Ray: it starts in a moment, and may be killed, stopped and tampered with."""

import os
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread
from tests.chaos.hooks import Hook
from tests.chaos.processes import CONTEXT
from tests.chaos.verifying import alone

from attractor_server.app import ShardSpec

START_TIMEOUT_S = 60.0


class StartFailed(Exception):
    """The shard said why it does not start."""


class ShardProcess(AbstractContextManager["ShardProcess"]):
    """Keeps its port from the first start on."""

    def __init__(self, spec: ShardSpec, *hooks: Hook) -> None:
        self._spec = spec
        self.hooks: Sequence[Hook] = hooks
        self.address = ""
        self._process: BaseProcess | None = None
        self._line: Connection | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def start(self, *more: Hook) -> None:
        """Returns when it serves; `more` hooks are for this time alone.

        Raises:
            StartFailed: it did not come so far.
        """
        self._line, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_main, args=(self._spec, [*self.hooks, *more], theirs), daemon=True)
        self._process = process
        process.start()
        theirs.close()
        if not self._line.poll(START_TIMEOUT_S):
            raise StartFailed(f"it did not serve within {START_TIMEOUT_S:g} s")
        try:
            self.address, failure = self._line.recv()
        except EOFError:
            failure = "it ended while it started"
        if failure:
            raise StartFailed(failure)
        self._spec = replace(self._spec, port=int(self.address.rpartition(":")[2]))

    def kill(self) -> None:
        """As kill -9."""
        self.signal(signal.SIGKILL)
        self.ended()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.is_alive():
            os.kill(self.pid, number)

    def stop(self) -> None:
        """Lets it end by itself."""
        assert self._line is not None
        self._line.send("stop")
        self.ended()

    def ended(self, timeout_s: float = 60) -> None:
        """Waits until the process is no more."""
        if self._process is not None:
            self._process.join(timeout_s)
            assert not self._process.is_alive()


def _main(spec: ShardSpec, hooks: Sequence[Hook], line: Connection) -> None:
    for hook in hooks:
        hook()
    try:
        anyio.run(partial(_serve, spec, line))
    except Exception as error:
        line.send(("", f"{type(error).__name__}: {error}"))
    os._exit(0)


async def _serve(spec: ShardSpec, line: Connection) -> None:
    async with alone(spec) as shard:
        line.send((shard.info.address, ""))
        try:
            await anyio.to_thread.run_sync(line.recv)
        except EOFError:  # who started it is no more
            return
