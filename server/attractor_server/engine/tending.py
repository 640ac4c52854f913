"""Tasks: forks, snapshots and their return, as the backend store does them, in the memory's order of requests."""

from collections.abc import Mapping
from typing import assert_never

from attractor_server.engine.batch import Loaded
from attractor_server.engine.faults import fault
from attractor_server.engine.keeper import Keeper
from attractor_server.engine.rebuilding import rebuild
from attractor_server.engine.returning import become, found
from attractor_server.engine.work import (
    ForgetSnapshot,
    Fork,
    Job,
    Outcome,
    Rebuild,
    Record,
    Restore,
    TakeSnapshot,
    Task,
    Tended,
)
from attractor_server.errors import ModelGone, NotKept, ServerError
from attractor_server.storage.records import Snapshot, StoredMemory


def tend(keeper: Keeper | None, loaded: Mapping[str, Loaded], job: Job) -> Outcome | ServerError:
    """Carries out the job's task. `loaded` is by digest; the memory's own model may not be among them."""
    if keeper is None or not job.memory.id:
        return NotKept(
            "this server keeps no memories, so that there is nothing to copy: start it without `--durable no`"
        )
    assert job.task is not None
    try:
        return Tended(_done(keeper, loaded, job.memory, job.task))
    except ServerError as error:
        return error
    except Exception as error:
        return fault(error, "a task", 1)


def _done(keeper: Keeper, loaded: Mapping[str, Loaded], memory: Record, task: Task) -> StoredMemory | Snapshot | None:
    match task:
        case Fork(name, tag):
            return keeper.fork(memory.id, name, tag=tag)
        case TakeSnapshot(tag):
            return keeper.snapshot(memory.id, tag)
        case ForgetSnapshot(tag):
            keeper.forget_snapshot(memory.id, tag)
        case Restore(tag):
            _restore(keeper, loaded, memory, tag)
        case Rebuild():
            rebuild(keeper, loaded, memory, task)
        case _:
            assert_never(task)
    return None


def _restore(keeper: Keeper, loaded: Mapping[str, Loaded], memory: Record, tag: str) -> None:
    """What is at hand of the memory goes; it comes back as the store has it when it is next needed."""
    snapshot = next((one for one in keeper.snapshots(memory.id) if one.tag == tag), None)
    if snapshot is not None and snapshot.model_digest not in loaded:
        raise ModelGone(
            f"snapshot {tag!r} of memory {memory.name!r} is of model {snapshot.model} ({snapshot.model_digest}), which "
            "this server does not have: put its file in the folder of --models and start again"
        )
    keeper.restore(memory.id, tag)
    if (own := loaded.get(memory.model_digest)) is not None:
        for page in memory.pages:
            own.bank.release(page)
    become(memory, found(keeper, memory))
    memory.model = loaded[memory.model_digest].model.name  # by which it is served, whatever it was called before
