"""The batcher: whatever waits when the engine is free is the next batch, across memories."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from attractor_server.engine.work import Job, Outcome, Record
from attractor_server.errors import Expired, QueueFull, ServerError

logger = logging.getLogger(__name__)


class Computer(Protocol):
    """What computes a batch of jobs of one program, in a worker thread."""

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        """An outcome or an error for each job, in their order."""


class Batcher:
    """A bounded queue before the engine. Within a memory first in, first out; across memories whatever fits together.

    Use it from one event loop; `run` must be running there. Limits count patterns, and iterates that are asked for.
    """

    def __init__(self, engine: Computer, *, waiting_limit: int, batch_limit: int) -> None:
        self._engine = engine
        self._waiting_limit = waiting_limit
        self._batch_limit = batch_limit
        self._waiting: deque[Job] = deque()
        self._waiting_weight = 0
        self._computing = False
        self._changed = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is being computed."""
        return not self._waiting and not self._computing

    def offer(self, job: Job) -> None:
        """Takes the job at once or not at all.

        Raises:
            QueueFull: so much is waiting that the job would have to wait for room; it has failed with that, too.
        """
        if not self._has_room(job):
            error = QueueFull(
                f"{self._waiting_weight} patterns are waiting on this shard, at most {self._waiting_limit} may: "
                "try again in a moment, or use a session, which waits by itself"
            )
            job.fail(error)
            raise error
        self._put(job)

    def add(self, job: Job) -> None:
        """Takes the job whatever waits: for what must not be lost, and is never many."""
        self._put(job)

    async def submit(self, job: Job) -> None:
        """Takes the job as soon as there is room for it; withdraws it where the caller is cancelled first."""
        try:
            while not self._has_room(job):
                await self._changed.wait()
        except asyncio.CancelledError:
            job.withdraw()
            raise
        self._put(job)

    async def run(self) -> None:
        """Computes batch after batch, until cancelled."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        try:
            while True:
                if batch := self._take():
                    await self._compute(batch, thread)
                else:
                    await self._changed.wait()
        finally:
            thread.shutdown(wait=False)  # a batch that is being computed ends there: nobody waits on the event loop

    async def drained(self) -> None:
        """Returns when everything accepted has been answered."""
        while not self.idle:
            await self._changed.wait()

    def _has_room(self, job: Job) -> bool:
        return not self._waiting or self._waiting_weight + job.weight <= self._waiting_limit

    def _put(self, job: Job) -> None:
        self._waiting.append(job)
        self._waiting_weight += job.weight
        self._announce()

    def _announce(self) -> None:
        """Wakes all who wait now; who comes later waits for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _compute(self, batch: list[Job], thread: ThreadPoolExecutor) -> None:
        self._computing = True
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(thread, self._engine.run, batch)
        except Exception:
            logger.exception("a batch of %d jobs failed", len(batch))
            outcomes = [ServerError("the engine failed; the server's log says why") for _ in batch]
        finally:
            self._computing = False
        for job, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, ServerError):
                job.fail(outcome)
            else:
                job.succeed(outcome)
        self._announce()

    def _take(self) -> list[Job]:
        """Jobs of the oldest one's program, none of them before an older job of the same memory."""
        now_s = asyncio.get_running_loop().time()
        batch: list[Job] = []
        kept: deque[Job] = deque()
        closed: set[Record] = set()
        weight = 0
        for job in self._waiting:
            if job.future.done():
                continue
            if job.deadline_s is not None and job.deadline_s <= now_s:
                job.fail(Expired("the deadline passed while the request was waiting; it was not computed"))
            elif job.memory in closed or (batch and not self._fits(job, batch[0], weight)):
                kept.append(job)
                closed.add(job.memory)
            else:
                job.started = True
                batch.append(job)
                weight += job.weight
                if job.operation.writes:
                    closed.add(job.memory)
        left = len(self._waiting) != len(kept)
        self._waiting = kept
        self._waiting_weight = sum(job.weight for job in kept)
        if left:
            self._announce()  # there is room
        return batch

    def _fits(self, job: Job, first: Job, weight: int) -> bool:
        return job.program == first.program and weight + job.weight <= self._batch_limit
