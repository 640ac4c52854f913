"""The engine: one batched loop over the pages of many memories."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

import torch

from attractor_server.energy.model import Model
from attractor_server.engine.batch import MemoryBatch, ModelState, Results, Stops, group_by_memory
from attractor_server.engine.bisection import by_halves
from attractor_server.engine.operations.draft import delete_in_parts
from attractor_server.engine.operations.erase import erase
from attractor_server.engine.operations.query import query, recognize
from attractor_server.engine.operations.restore import find_repeats, restore_memories
from attractor_server.engine.operations.search import search
from attractor_server.engine.operations.store import store
from attractor_server.engine.operations.tasks import TaskRunner
from attractor_server.engine.pages.kept_views import KeptViews, view_bytes
from attractor_server.engine.pages.pattern_cache import PatternCache
from attractor_server.engine.pages.precision import page_bytes
from attractor_server.engine.pages.spill import Residency, bank_for
from attractor_server.engine.slicing import PART_S, TimeSlicer
from attractor_server.errors import BankBroken, ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Deleted, Outcome, TaskDone, Unfinished
from attractor_server.memories.page import release
from attractor_server.memories.store import MemoryStore
from attractor_server.recorder import SILENT, Recorder
from attractor_server.scheduling.failures import find_misfit, log_fault, memory_gone_error, model_gone_error
from attractor_server.scheduling.jobs import Job, Operation

FREED = 64
"""Pages whose places are freed at a time"""
PROGRAMS: Mapping[Operation, Callable[[ModelState, Sequence[MemoryBatch]], Results]] = {
    Operation.STORE: store,
    Operation.ERASE: erase,
    Operation.QUERY: query,
    Operation.RECOGNIZE: recognize,
    Operation.SEARCH: search,
}


class Engine:
    """Computes jobs on one device. Not thread-safe: one thread calls `run`."""

    def __init__(  # noqa: PLR0913
        self,
        models: Iterable[Model],
        *,
        bank_bytes: int,
        residency: Residency | None = None,
        store: MemoryStore | None = None,
        checked: bool = False,
        part_s: float = PART_S,
        recorder: Recorder = SILENT,
    ) -> None:
        """`bank_bytes` bounds the fast weights of each model that are on the device at the same time.

        With a `store` memories that have an id there outlive the engine. With `checked` the banks of a batch are
        checked after it. What is done in parts stops after `part_s`.
        """
        residency = residency or Residency()
        self._store = store
        self._checked = checked
        kept = None if store is None else PatternCache(store)
        self._states: Mapping[str, ModelState] = {
            model.digest: _make_state(model, bank_bytes, residency, store, kept, recorder) for model in models
        }
        self._tasks = TaskRunner(store, self._states)
        self._deleting: dict[Job, Stops[Outcome | ServerError]] = {}
        self._part_s = part_s
        self._parts = TimeSlicer(self._compute_jobs, part_s=part_s)
        self._singly: Mapping[Operation, Callable[[Job], Outcome | ServerError]] = {
            Operation.DELETE: self._delete,
            Operation.EVICT: self._leave,
            Operation.TASK: self._tasks.run,
        }

    @property
    def states(self) -> Iterable[ModelState]:
        """The models with their banks, which the engine's thread alone may change."""
        return self._states.values()

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        """Return an outcome or an error for each of these jobs of one operation, in their order.

        Of one memory there may be several jobs that read, several stores, or a single erase or deletion. A job that is
        Unfinished has to come again, before any other of its memory.

        Raises:
            BankBroken: the places of a bank are in disorder, where they are checked; no outcome can be trusted.
        """
        if not self._checked:
            return self._run(jobs)
        before = {job.memory.model_digest for job in jobs}
        outcomes = self._run(jobs)
        self.check(before.union(job.memory.model_digest for job in jobs))
        return outcomes

    def check(self, digests: Collection[str] | None = None) -> None:
        """Check the banks of these models, or all.

        Raises:
            BankBroken: not each place of a bank is free once, or one page's.
        """
        for digest, state in self._states.items():
            if (digests is None or digest in digests) and (found := state.bank.find_disorder()):
                raise BankBroken(f"the bank of model {state.model.name} ({digest}) is in disorder: {found}")

    def _run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        self._parts.drop_stale()
        if (one := self._singly.get(jobs[0].operation)) is not None:
            return [_run_alone(one, job) for job in jobs]
        if jobs[0].cut:
            return self._parts.run(jobs)
        outcomes = dict(answered for answered in self._compute_jobs(jobs) if answered is not None)
        return [outcomes[job] for job in jobs]

    def _compute_jobs(self, jobs: Sequence[Job]) -> Results:
        """Compute jobs of one operation, of memories of any models."""
        by_model: dict[str, list[Job]] = {}
        for job in jobs:
            if job.memory.deleted:
                yield job, memory_gone_error(job.memory)
            else:
                by_model.setdefault(job.memory.model_digest, []).append(job)
        for digest, own in by_model.items():
            if (state := self._states.get(digest)) is None:
                yield from ((job, model_gone_error(job.memory)) for job in own)
            else:
                yield from _compute(state, own)

    def close(self) -> None:
        """Remove the files of pages. Nothing can be computed from then on."""
        for state in self._states.values():
            state.spill.close()

    def _delete(self, job: Job) -> Outcome | ServerError:
        """Delete the memory, or the next part of it."""
        end_s = time.perf_counter() + self._part_s
        steps = self._deleting.pop(job, None) or self._delete_in_steps(job)
        try:
            while True:
                next(steps)
                if time.perf_counter() >= end_s:
                    self._deleting[job] = steps
                    return Unfinished()
        except StopIteration as end:
            outcome: Outcome | ServerError = end.value
            return outcome

    def _delete_in_steps(self, job: Job) -> Stops[Outcome | ServerError]:
        """Free the places of all pages, and delete the memory in the store, also where its model is not served."""
        memory = job.memory
        if job.if_expired and (memory.expires_s is None or memory.expires_s > time.time()):
            return TaskDone()
        while memory.pages:
            release(memory.pages[-FREED:])
            del memory.pages[-FREED:]
            yield
        try:
            if self._store is not None and memory.id and self._store.begin_delete(memory.id, call=job.call):
                yield from delete_in_parts(self._store, memory.id)
        except ServerError as error:
            memory.at_hand = False
            return error
        if job.if_expired:  # else it was taken out of the catalog before
            memory.deleted = True
        return Deleted()

    @staticmethod
    def _leave(job: Job) -> Outcome:
        """Free the places of all pages of a memory that another shard will have; the store keeps it."""
        _free(job.memory)
        job.memory.deleted = True
        return Deleted()


def _make_state(  # noqa: PLR0913
    model: Model,
    limit_bytes: int,
    residency: Residency,
    store: MemoryStore | None,
    kept: PatternCache | None,
    recorder: Recorder,
) -> ModelState:
    """Make the state of a model, whose kept patterns have their share of the bytes where they take part in answers."""
    views_bytes = 0
    if model.posterior is not None and kept is not None:
        own = view_bytes(model.capacity, model.encoding.size, model.entries)
        views_bytes = limit_bytes * own // (own + page_bytes(residency.precision, model.initial_page))
    bank = bank_for(model, limit_bytes=limit_bytes - views_bytes, residency=residency, store=store, recorder=recorder)
    return ModelState(model, *bank, store, kept, KeptViews(views_bytes), recorder)


def _compute(state: ModelState, jobs: Sequence[Job]) -> Results:
    """Compute jobs whose memories are of that model at this moment, which is the turn of all of them."""
    answered: set[Job] = set()
    try:
        for one in _answer(state, jobs):
            if one is not None:
                answered.add(one[0])
            yield one
    except Exception as error:  # what was answered before stands
        failure = log_fault(error, jobs[0].operation.value, len(jobs))
        yield from ((job, failure) for job in jobs if job not in answered)


def _answer(state: ModelState, jobs: Sequence[Job]) -> Results:
    settled = dict(restore_memories(state, [job for job in jobs if not job.memory.at_hand]))
    settled |= find_repeats(state, [job for job in jobs if job.looks_back and job not in settled])
    for job in jobs:
        if job.own_steps:
            job.settle_steps(state.model.steps)
        if job not in settled and (error := find_misfit(job, state.model)) is not None:
            settled[job] = error
    yield from settled.items()
    batches = group_by_memory(job for job in jobs if job not in settled)
    program = partial(PROGRAMS[operation := jobs[0].operation], state)
    if operation.writes and batches:  # in which each memory fails alone
        yield from program(batches)
    elif batches:
        yield from _by_halves(program, batches, operation)


def _by_halves(
    program: Callable[[Sequence[MemoryBatch]], Results], batches: Sequence[MemoryBatch], operation: Operation
) -> Results:
    """Yield the answers of batches that read; each memory fails alone, and what it was answered before stands."""
    answered: set[Job] = set()

    def work(part: Sequence[MemoryBatch]) -> Results:
        for one in program(part):
            if one is not None:
                answered.add(one[0])
            yield one

    def fail(part: Sequence[MemoryBatch], error: Exception) -> Results:
        failure = log_fault(error, operation.value, len(part))
        yield from ((job, failure) for batch in part for job in batch.jobs if job not in answered)

    return by_halves(batches, work, fail)


def _run_alone(one: Callable[[Job], Outcome | ServerError], job: Job) -> Outcome | ServerError:
    """Return the job's outcome; an unforeseen error is this job's and no other's."""
    try:
        return one(job)
    except Exception as error:
        return log_fault(error, job.operation.value, 1)


def _free(memory: MemoryRecord) -> None:
    release(memory.pages)
    memory.pages.clear()
