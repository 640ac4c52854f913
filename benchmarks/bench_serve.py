"""How much of what the engine computes gets through a server and the SDK?

1,000 memories of `glyphs-28` on one shard in a process of its own, single-pattern queries from concurrent pipelines on
loopback: straight to the owner, and all of them forwarded by a second shard. The peer is the engine called directly, in
this process, on the same number of threads and with batches as large.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeAlias

import anyio
import numpy as np
import torch
from _report import Result, rate, report
from numpy.typing import NDArray

import attractor
from attractor_proto.names import slot_of
from attractor_server.app import ShardSpec, load_models, running_shard
from attractor_server.engine.engine import Engine
from attractor_server.engine.work import Job, Operation, Record
from attractor_server.storage.catalog import MemoryRecord
from attractor_server.storage.settings import MemorySettings
from attractor_server.topology import ShardInfo, Topology

MEMORIES, QUERIES, BATCH = 1000, 20_000, 1024
MODEL = "glyphs-28"
Images: TypeAlias = NDArray[np.float32]
SPEC = ShardSpec(bank_bytes=2 << 30)


def main() -> None:
    names = [name for n in range(3 * MEMORIES) if slot_of(name := f"bench/{n}") % 2 == 0][:MEMORIES]
    images = np.random.default_rng(0).random((64, 28, 28), dtype=np.float32)
    with Shards(2) as addresses:
        straight = anyio.run(through, addresses[0], names, images, True)
        forwarded = anyio.run(through, addresses[1], names, images, False)
    engine = directly(images)
    job = "single queries of 1,000 memories"
    report(
        [
            Result(name=job, unit="queries/s", ours=straight, peer="engine alone", theirs=engine),
            Result(name=f"{job}, forwarded", unit="queries/s", ours=forwarded, peer="straight", theirs=straight),
        ]
    )


async def through(address: str, names: Sequence[str], images: Images, direct: bool) -> float:
    """Queries a second through the SDK, after every memory has been written to."""
    async with attractor.connect(address, in_flight_patterns=2 * BATCH, direct=direct) as client:
        memories = [await client.create_memory(name, model=MODEL) for name in names]
        async with anyio.create_task_group() as tasks:
            for memory in memories:
                tasks.start_soon(memory.store, images[:4])
        line = iter(range(QUERIES))

        async def work() -> None:
            for n in line:
                await memories[n % len(memories)].query(images[n % 64])

        started_s = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(BATCH):
                tasks.start_soon(work)
        return QUERIES / (time.perf_counter() - started_s)


def directly(images: Images) -> float:
    """Queries a second of the engine alone, batches of the size that the server's clients keep in flight."""
    torch.set_num_threads(SPEC.threads)
    models = load_models(None, device=torch.device("cpu"))
    model, engine = models[MODEL], Engine(models.values(), bank_bytes=SPEC.bank_bytes)
    settings = MemorySettings(page_patterns=model.capacity)
    records: list[Record] = [
        MemoryRecord(name=str(n), model=MODEL, model_digest=model.digest, created_s=0.0, settings=settings)
        for n in range(MEMORIES)
    ]
    loop = asyncio.new_event_loop()
    flat = images.reshape(64, -1)

    def jobs(operation: Operation, count: int) -> list[Job]:
        return [
            Job(
                operation=operation,
                memory=records[n % MEMORIES],
                future=loop.create_future(),
                values=flat[n % 64][None],
            )
            for n in range(count)
        ]

    engine.run(jobs(Operation.STORE, MEMORIES))
    queries = jobs(Operation.QUERY, BATCH)
    for query in queries:
        query.steps = model.steps
    figure = rate(lambda: engine.run(queries), BATCH)
    loop.close()
    return figure


class Shards:
    """So many shards, each in a process of its own, that know each other."""

    def __init__(self, count: int) -> None:
        context = get_context("spawn")
        pipes = [context.Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=run_shard, args=(replace(SPEC, number=n), theirs))
            for n, (_, theirs) in enumerate(pipes)
        ]

    def __enter__(self) -> Sequence[str]:
        for process in self._processes:
            process.start()
        infos = tuple(pipe.recv() for pipe in self._pipes)
        for pipe in self._pipes:
            pipe.send(Topology(1, infos))
            pipe.recv()
        return [info.address for info in infos]

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def run_shard(spec: ShardSpec, pipe: Connection) -> None:
    """One shard, until it is terminated."""

    async def serve() -> None:
        async with running_shard(spec) as shard:
            info: ShardInfo = shard.info
            await asyncio.to_thread(pipe.send, info)
            await shard.learn(await asyncio.to_thread(pipe.recv))
            await asyncio.to_thread(pipe.send, None)
            await anyio.sleep_forever()

    anyio.run(serve)


if __name__ == "__main__":
    main()
