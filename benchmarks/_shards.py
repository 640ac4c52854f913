"""Shards in processes of their own, without Ray, for benchmarks of the way between a client and an engine."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Self

import anyio
import psutil

from attractor_server.app import run_shard
from attractor_server.shard.event_loop import freeze_heap, loop_options
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import ShardInfo, Topology


class Shards:
    """Shards of one spec that know each other, until the end of the block."""

    def __init__(self, spec: ShardSpec, count: int, *, setup: Callable[[], object] = dict) -> None:
        """`setup` is called in each process first."""
        context = get_context("spawn")
        pipes = [context.Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_run, args=(replace(spec, number=n), theirs, setup))
            for n, (_, theirs) in enumerate(pipes)
        ]
        self.infos: tuple[ShardInfo, ...] = ()
        self.addresses: Sequence[str] = ()

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        self.infos = tuple(pipe.recv() for pipe in self._pipes)
        for pipe in self._pipes:
            pipe.send(Topology(1, self.infos))
            pipe.recv()
        self.addresses = [info.address for info in self.infos]
        return self

    def learn(self, topology: Topology) -> None:
        """Send the topology to all shards at the same time, and wait until they follow it."""
        for pipe in self._pipes:
            pipe.send(topology)
        for pipe in self._pipes:
            pipe.recv()

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    @property
    def pids(self) -> Sequence[int]:
        """Process ids of the shards, in order."""
        return [process.pid for process in self._processes if process.pid is not None]

    def cpu_s(self) -> float:
        """Return the processor time of all shards so far, in seconds."""
        times = [psutil.Process(process.pid).cpu_times() for process in self._processes]
        return float(sum(time.user + time.system for time in times))


def _run(spec: ShardSpec, pipe: Connection, setup: Callable[[], object]) -> None:
    setup()

    async def serve() -> None:
        async with run_shard(spec) as shard:
            await asyncio.to_thread(pipe.send, shard.info)
            await shard.learn(await asyncio.to_thread(pipe.recv))
            freeze_heap()  # as the server's own processes do
            await asyncio.to_thread(pipe.send, None)
            while True:
                await shard.learn(await asyncio.to_thread(pipe.recv))
                await asyncio.to_thread(pipe.send, None)

    anyio.run(serve, backend_options=dict(loop_options()))
