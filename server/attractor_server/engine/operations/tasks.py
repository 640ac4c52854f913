"""Tasks: forks, snapshots and their return, as the backend store does them, in the memory's order of requests."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias, assert_never

from attractor_server.engine.batch import ModelState
from attractor_server.engine.operations.draft import delete_in_parts
from attractor_server.engine.operations.rebuild import rebuild_memory
from attractor_server.errors import ModelGone, NotKept, ServerError, StoreFailed
from attractor_server.memories.memory import MemoryRecord, find_stored, reload
from attractor_server.memories.outcomes import Outcome, TaskDone, Unfinished
from attractor_server.memories.page import release
from attractor_server.memories.records import Call, Done, Snapshot, StoredMemory
from attractor_server.memories.store import MemoryStore
from attractor_server.scheduling.failures import log_fault
from attractor_server.scheduling.jobs import Job
from attractor_server.scheduling.tasks import ForgetSnapshot, Fork, Rebuild, Restore, TakeSnapshot, Touch

Made: TypeAlias = StoredMemory | Snapshot | int | None

Steps: TypeAlias = Generator[None, None, Made]


class TaskRunner:
    """Carry out tasks, each once. Lives on the engine's thread."""

    def __init__(self, store: MemoryStore | None, states: Mapping[str, ModelState]) -> None:
        """Carry out tasks on the models of `states`, by digest; a memory's own model may not be among them."""
        self._store = store
        self._states = states
        self._under_way: dict[Job, Steps] = {}

    def run(self, job: Job) -> Outcome | ServerError:
        """Carry out the job's task, or the next part of it."""
        store, states = self._store, self._states
        if store is None or not job.memory.id:
            return NotKept(
                "this server keeps no memories, so that there is nothing to copy: start it without `--durable no`"
            )
        try:
            steps = self._under_way.pop(job, None) or _start_task(store, states, job)
            next(steps)
        except StopIteration as end:
            return TaskDone(end.value)
        except ServerError as error:
            if isinstance(error, StoreFailed):  # a commit whose answer was lost may have been made
                invalidate(store, states, job.memory)
            return error
        except Exception as error:
            return log_fault(error, "a task", 1)
        self._under_way[job] = steps
        return Unfinished()


def invalidate(store: MemoryStore, states: Mapping[str, ModelState], memory: MemoryRecord) -> None:
    """Forget the memory's pages and counts here: they come from the store when they are next needed."""
    release(memory.pages)
    memory.at_hand = False
    with suppress(ServerError):
        _reload(states, memory, find_stored(store, memory))


def _start_task(store: MemoryStore, states: Mapping[str, ModelState], job: Job) -> Steps:
    """Do the job's task, with stops if it takes long; return its result."""
    if job.call is not None and (first := store.find_call(job.call)) is not None:
        return _repeat_answer(store, states, job, first)
    match job.task:
        case Rebuild():
            return (yield from _rebuild(store, states, job, job.task))
        case Restore(tag):
            return (yield from _restore(store, states, job.memory, tag, job.call))
        case ForgetSnapshot(tag):
            if snapshot := store.begin_forget(job.memory.id, tag, call=job.call):
                yield from delete_in_parts(store, snapshot)
            return None
        case Touch(ids, expires_s):
            return _touch(store, states, job.memory, ids, expires_s)
    return _do_task(store, job)


def _rebuild(store: MemoryStore, states: Mapping[str, ModelState], job: Job, task: Rebuild) -> Steps:
    done, old = yield from rebuild_memory(store, states[task.model_digest], job.memory, task, job.call)
    made = _refresh(store, states, job.memory, done)
    yield from delete_in_parts(store, old)
    return made


def _touch(
    store: MemoryStore,
    states: Mapping[str, ModelState],
    memory: MemoryRecord,
    ids: Sequence[str],
    expires_s: float | None,
) -> int:
    """Give items another end in the store; return how many there were."""
    touched = store.touch_items(memory.id, ids, expires_s)
    memory.touch()
    state = states.get(memory.model_digest)
    for page in memory.pages:
        if page.number in touched and state is not None and state.patterns is not None:
            state.patterns.invalidate(page)
    return len(touched)


def _do_task(store: MemoryStore, job: Job) -> Made:
    memory, call = job.memory, job.call
    assert job.task is not None
    match job.task:
        case Fork(name, tag):
            return store.fork(memory.id, name, tag=tag, call=call)
        case TakeSnapshot(tag):
            return store.snapshot(memory.id, tag, call=call)
        case ForgetSnapshot() | Restore() | Rebuild() | Touch():
            raise AssertionError("it is done elsewhere")
        case _:
            assert_never(job.task)


def _repeat_answer(store: MemoryStore, states: Mapping[str, ModelState], job: Job, first: Done) -> Made:
    """Return the first answer, as far as it is known: what was made then may be another by now, or gone."""
    memory = job.memory
    match job.task:
        case Fork(name):
            made = store.find(name) or find_stored(store, memory)
            return replace(made, name=name, version=first.version, patterns=first.patterns)
        case TakeSnapshot(tag):
            there = store.find_snapshot(memory.id, tag)
            return there if there and there.version == first.version else _describe_snapshot(memory, tag, first)
        case ForgetSnapshot():
            return None
        case _:
            return _refresh(store, states, memory, first)


def _refresh(store: MemoryStore, states: Mapping[str, ModelState], memory: MemoryRecord, done: Done) -> StoredMemory:
    """Bring the memory's record up to the store; return the memory with what a call made of it then."""
    stored = find_stored(store, memory)
    if stored.version != memory.version:
        invalidate(store, states, memory)
        _reload(states, memory, stored)
    return replace(stored, model=memory.model, version=done.version, patterns=done.patterns)


def _reload(states: Mapping[str, ModelState], memory: MemoryRecord, stored: StoredMemory) -> None:
    reload(memory, stored)
    if (new := states.get(memory.model_digest)) is not None:
        memory.model = new.model.name  # by which it is served now, whatever it was called before


def _describe_snapshot(memory: MemoryRecord, tag: str, first: Done) -> Snapshot:
    return Snapshot(
        id=0,
        tag=tag,
        model=memory.model,
        model_digest=memory.model_digest,
        version=first.version,
        patterns=first.patterns,
        created_s=time.time(),
    )


def _restore(
    store: MemoryStore, states: Mapping[str, ModelState], memory: MemoryRecord, tag: str, call: Call | None
) -> Steps:
    """Restore a snapshot in the store; the memory's pages come from there when they are next needed."""
    snapshot = store.find_snapshot(memory.id, tag)
    if snapshot is not None and snapshot.model_digest not in states:
        raise ModelGone(
            f"snapshot {tag!r} of memory {memory.name!r} is of model {snapshot.model} ({snapshot.model_digest}), which "
            "this server does not have: put its file in the folder of --models and start again"
        )
    done, old = store.begin_restore(memory.id, tag, call=call)
    made = _refresh(store, states, memory, done)
    if old:
        yield from delete_in_parts(store, old)
    return made
