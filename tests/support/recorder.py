"""A computer that keeps the batches it is given, and a batcher before it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import numpy as np

from attractor_server.errors import ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Outcome, Stored
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.batcher import Batcher
from attractor_server.scheduling.jobs import Job, Operation

SETTINGS = MemorySettings(page_patterns=8)


class Recorder:
    """Keeps the batches it is given, and holds each until it is let go."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Job]] = []
        self.free = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.fault: Exception | None = None

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        self.batches.append(jobs)
        self.begun.release()
        assert self.free.acquire(timeout=20)
        if self.fault is not None:
            raise self.fault
        return [Stored(version=1, patterns=job.size) for job in jobs]

    async def next_batch(self) -> None:
        assert await anyio.to_thread.run_sync(lambda: self.begun.acquire(timeout=20))


@asynccontextmanager
async def running(computer: Recorder, *, waiting: int = 100, batch: int = 100) -> AsyncIterator[Batcher]:
    batcher = Batcher(computer, waiting_limit=waiting, batch_limit=batch)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.run)
        yield batcher
        computer.free.release(1000)
        with anyio.fail_after(20):
            await batcher.wait_until_idle()
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def held(computer: Recorder, *, waiting: int = 1_000_000, batch: int = 100) -> AsyncIterator[Batcher]:
    """While a first batch is being computed, so that all that is offered has to wait."""
    async with running(computer, waiting=waiting, batch=batch) as batcher:
        batcher.offer(job(Operation.RECOGNIZE, memory("blocker", "other")))
        await computer.next_batch()
        yield batcher


def memory(name: str, digest: str = "d") -> MemoryRecord:
    return MemoryRecord(name=name, model="m", model_digest=digest, created_s=0.0, settings=SETTINGS)


def job(operation: Operation, of: MemoryRecord, *, size: int = 1, **more: object) -> Job:
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    return Job(operation=operation, memory=of, future=future, values=np.zeros((size, 2), np.float32), **more)  # type: ignore[arg-type]


async def batches_after(computer: Recorder, batcher: Batcher, jobs: Sequence[Job]) -> list[list[Job]]:
    """The batches made of jobs that all wait while the first one is being computed."""
    for one in jobs:
        batcher.offer(one)
    computer.free.release(1000)
    with anyio.fail_after(20):
        await batcher.wait_until_idle()
    return [list(batch) for batch in computer.batches[1:]]
