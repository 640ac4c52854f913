"""A shard in a process of its own, without Ray: it starts in a moment, and may be killed, stopped and tampered with."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self, TypeAlias

import anyio
import anyio.to_thread
from tests.support.forkserver import CONTEXT

from attractor_server.app import RunningShard, run_shard
from attractor_server.errors import StoreFailed
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import ShardInfo, Topology

START_TIMEOUT_S = 60.0
Hook: TypeAlias = Callable[[], None]
"""Called in the process before the shard starts"""


class StartFailed(Exception):
    """The shard said why it does not start."""


class ShardProcess(AbstractContextManager["ShardProcess"]):
    """Keeps its port from the first start on."""

    def __init__(self, spec: ShardSpec, *hooks: Hook, alone: bool = True) -> None:
        """One that is not alone serves when it has learned who owns what."""
        self._spec = spec
        self._alone = alone
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
        process = CONTEXT.Process(
            target=_main, args=(self._spec, [*self.hooks, *more], theirs, self._alone), daemon=True
        )
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

    @property
    def info(self) -> ShardInfo:
        return ShardInfo(self.address, self._spec.device)

    def tell(self, topology: Topology) -> None:
        """Has it learn who owns what; `held` waits for it."""
        assert self._line is not None
        self._line.send(topology)

    def held(self) -> frozenset[int] | None:
        """The groups that it has by what it was told; None if it ended meanwhile."""
        assert self._line is not None
        try:
            assert self._line.poll(START_TIMEOUT_S)
            groups: frozenset[int] = self._line.recv()
        except (EOFError, ConnectionResetError):
            return None
        return groups

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


def _main(spec: ShardSpec, hooks: Sequence[Hook], line: Connection, alone: bool) -> None:
    for hook in hooks:
        hook()
    try:
        anyio.run(partial(_serve, spec, line, alone=alone))
    except Exception as error:
        line.send(("", f"{type(error).__name__}: {error}"))
    os._exit(0)


async def _serve(spec: ShardSpec, line: Connection, *, alone: bool) -> None:
    async with run_shard(spec) as shard:
        if alone:
            await shard.learn(Topology(1, (shard.info,)))
        line.send((shard.info.address, ""))
        try:
            while isinstance(told := await anyio.to_thread.run_sync(line.recv), Topology):
                line.send(await _learned(shard, told))
        except EOFError:  # who started it is no more
            return


async def _learned(shard: RunningShard, topology: Topology) -> frozenset[int]:
    with suppress(StoreFailed):  # it is told again
        await shard.learn(topology)
    return shard.held
