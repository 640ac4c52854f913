"""The batcher: whatever waits when the engine is free is the next batch, across memories, fair across namespaces."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from attractor_server.errors import BankBroken, OwnerChanged, QueueFull, ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.names import namespace_of
from attractor_server.memories.outcomes import Outcome, Unfinished
from attractor_server.recorder import SILENT, Recorder
from attractor_server.scheduling.admission import Admission
from attractor_server.scheduling.batch_size import CONTENTION_PART, BatchSizer, Contention, SliceCost
from attractor_server.scheduling.jobs import Job
from attractor_server.scheduling.queue import Queue
from attractor_server.scheduling.signal import Signal

logger = logging.getLogger(__name__)

SUBMITS_AT_A_TIME = 64


class Executor(Protocol):
    """Computes a batch of jobs of one program, in a worker thread."""

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        """Return an outcome or an error for each job, in their order.

        Raises:
            BankBroken: nothing that it computes can be trusted any more.
        """


class Batcher:
    """A bounded queue before the engine. Within a memory first in, first out; across namespaces fair.

    A batch holds jobs of one program, of a memory any number that store or any that read, or one that erases or
    deletes. Use it from one event loop; `run` must be running there. Limits count patterns, and iterates that are
    asked for.
    """

    def __init__(
        self,
        engine: Executor,
        *,
        waiting_limit: int,
        batch_limit: int,
        batch_s: float | None = None,
        recorder: Recorder = SILENT,
    ) -> None:
        """`batch_s` bounds the time that a batch takes, a part of it where several namespaces wait for one another."""
        self._engine = engine
        self._recorder = recorder
        self.waiting_limit = waiting_limit
        """Patterns that may wait"""
        self._sizer_alone = self._sizer = BatchSizer(batch_s=batch_s, batch_limit=batch_limit)
        self._sizer_contended = BatchSizer(batch_s=batch_s and batch_s / CONTENTION_PART, batch_limit=batch_limit)
        self._contention = Contention()
        self._slice_cost = SliceCost()
        self._part_s = batch_s and batch_s / CONTENTION_PART
        self._queue = Queue()
        self._admission = Admission(self._queue)
        self._computing: Sequence[Job] = ()
        self._submitted = 0
        self.changes = Signal()
        """Something came to wait, was taken or was answered"""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being computed."""
        return not self._queue and not self._computing

    @property
    def waiting(self) -> Sequence[Job]:
        """Jobs that wait, those of one memory in their order."""
        return self._queue.list_jobs()

    @property
    def waiting_weight(self) -> int:
        """Patterns that wait."""
        return self._queue.weight

    @property
    def waiting_namespaces(self) -> int:
        """Namespaces whose jobs wait."""
        return self._queue.namespaces

    def find_busy(self, memories: Iterable[MemoryRecord]) -> set[MemoryRecord]:
        """Return those of the memories of which a job waits or is being computed."""
        computing = {job.memory for job in self._computing}
        return {memory for memory in memories if memory in computing or memory in self._queue}

    def offer(self, job: Job) -> None:
        """Queue the job at once, or refuse it.

        Raises:
            QueueFull: so much is waiting that the job would have to wait for room; it has failed with that, too.
        """
        if not self._admission.is_open(job, self.waiting_limit):
            error = self._full_error(job)
            self._recorder.record_refusal(namespace_of(job.memory.name))
            job.fail(error)
            raise error
        self._put(job)

    def add(self, job: Job) -> None:
        """Queue the job whatever waits: for jobs that must not be lost, and are never many."""
        self._put(job)

    async def submit(self, job: Job) -> None:
        """Queue the job as soon as there is room for it; withdraw it where the caller is cancelled first.

        Now and then others have the event loop in between, though there is room: a caller may bring very many.
        """
        try:
            self._submitted += 1
            if self._submitted % SUBMITS_AT_A_TIME == 0:
                await asyncio.sleep(0)
            if not self._admission.is_open(job, self.waiting_limit):
                self._note(job)
                await self._admission.wait(job)
                return
        except asyncio.CancelledError:
            job.withdraw()
            raise
        self._put(job)

    async def run(
        self, before: Iterable[Callable[[], object]] = (), *, between: Iterable[Callable[[], object]] = ()
    ) -> None:
        """Compute batch after batch, until cancelled.

        In the engine's thread it calls all of `before` first, and one of `between` whenever nothing waits.

        Raises:
            BankBroken: as the engine did; all jobs have failed with it.
        """
        loop, spare = asyncio.get_running_loop(), iter(between)
        thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        try:
            for step in before:
                await loop.run_in_executor(thread, step)
            while True:
                if batch := self._take(loop.time()):
                    await self._compute(batch, thread)
                elif not self._queue:
                    if (one := next(spare, None)) is not None:
                        await loop.run_in_executor(thread, one)
                    else:
                        await self.changes.wait()
        except BankBroken as error:
            logger.critical("%s; this shard ends, so that no memory answers with another one's patterns", error)
            for job in self._queue.list_jobs():
                job.fail(error)
            raise
        finally:
            thread.shutdown(wait=False)  # a batch that is being computed ends there: nobody waits on the event loop

    async def wait_until_idle(self) -> None:
        """Wait until everything accepted has been answered."""
        while not self.idle:
            await self.changes.wait()

    def _put(self, job: Job) -> None:
        self._note(job)
        self._queue.put(job)
        self.changes.notify()

    def _note(self, job: Job) -> None:
        job.queued_s = time.perf_counter()
        self._contention.note(namespace_of(job.memory.name), asyncio.get_running_loop().time())

    def _full_error(self, job: Job) -> QueueFull:
        namespace = namespace_of(job.memory.name)
        whose = f"of namespace {namespace!r}" if namespace else "of names without a namespace"
        return QueueFull(
            f"{self._queue.weight} patterns are waiting on this shard, at most {self.waiting_limit} may, "
            f"{self._queue.weight_of(namespace)} of them {whose}, which may have as many as are left free: "
            "try again in a moment, or use a session, which waits by itself"
        )

    def _take(self, now_s: float) -> list[Job]:
        """Take the next batch, and admit to its place jobs that have been waiting for room."""
        before = self._queue.weight
        self._sizer = self._sizer_contended if self._contention.is_present(now_s) else self._sizer_alone
        self._queue.part_cost = self._slice_cost.count_patterns(self._part_s)
        batch = self._queue.take(self._sizer.limit_of, now_s)
        if self._queue.weight != before:
            self._admission.admit(self.waiting_limit)
            self.changes.notify()
        return batch

    async def _compute(self, batch: list[Job], thread: ThreadPoolExecutor) -> None:
        self._computing = batch
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(thread, self._time_batch, batch)
        except BankBroken as error:
            for job in batch:
                job.fail(error)
            raise
        except Exception:
            logger.exception("a batch of %d jobs failed", len(batch))
            outcomes = [ServerError("the engine failed; the server's log says why") for _ in batch]
        finally:
            self._computing = ()
        for job, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, ServerError):
                job.fail(outcome)
            elif not isinstance(outcome, Unfinished):
                job.succeed(outcome)
        self.changes.notify()

    def _time_batch(self, batch: list[Job]) -> list[Outcome | ServerError]:
        """Compute a batch in the engine's thread, and learn from its time; the event loop leaves the sizer alone
        meanwhile.
        """
        program, cost = batch[0].program, sum(job.cost for job in batch)
        started_s = time.perf_counter()
        with self._recorder.trace_batch(batch):
            outcomes = self._engine.run(batch)
        if batch[0].parts <= 1 and not isinstance(outcomes[0], Unfinished):
            took_s = time.perf_counter() - started_s
            self._sizer.learn(program, cost, took_s)
            self._slice_cost.learn(cost, took_s)
        self._recorder.record_batch(batch, outcomes, started_s, time.perf_counter())
        return outcomes


class Lease(Protocol):
    """The time in which nobody else can have changed what this shard believes to be its own."""

    @property
    def fresh(self) -> bool:
        """Whether it holds."""


class LeaseGuard:
    """Executes batches by another executor, and answers jobs that read only while a lease holds.

    It is looked at before a batch, and again after it, since the process may have been stopped between. Jobs that write
    need no lease: the store takes nothing from who is not the owner.
    """

    def __init__(self, executor: Executor, *, lease: Lease) -> None:
        self._executor = executor
        self._lease = lease

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        """Return an outcome or an error for each job, in their order."""
        if jobs[0].operation.writes:
            return self._executor.run(jobs)
        outcomes = self._executor.run(jobs) if self._lease.fresh else []
        if outcomes and self._lease.fresh:
            return outcomes
        error = OwnerChanged("this shard no longer knows whether the memory is its own; try again in a moment")
        return [error] * len(jobs)
