"""Memories get another model while requests wait behind that: nobody else notices, and no page is in another bank."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tests.support.engine_bench import Values
from tests.support.tiny_models import IMAGE, KEY, able_model, tiny_model

from attractor_server.energy.model import Model
from attractor_server.engine.engine import Engine
from attractor_server.errors import ModelChanged, ServerError
from attractor_server.memories.memory import MemoryRecord, record_of
from attractor_server.memories.outcomes import Deleted, Outcome, Recalled, Stored, TaskDone, Unfinished
from attractor_server.memories.page import Page
from attractor_server.memories.records import NewMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.scheduling.queue import Queue
from attractor_server.scheduling.tasks import Rebuild, Restore, TakeSnapshot, Task
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.memory_store import SqlMemoryStore

ONE, OTHER, KEYS = (
    replace(model, digest=f"sha256:{model.name}")
    for model in (tiny_model("one", IMAGE), able_model("other", IMAGE), tiny_model("keys", KEY))
)
OTHERS = [f"other/{number}" for number in range(4)]


def patterns(seed: int, count: int = 1, model: Model = ONE) -> Values:
    return np.random.default_rng(seed).random((count, model.layout.size), dtype=np.float32)


class House:
    """An engine of three models behind a queue, with a store in a folder."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.database, self.loop, self.queue = SqliteDatabase(folder), loop, Queue()
        self.journal = SqlMemoryStore(self.database)
        self.engine = Engine([ONE, OTHER, KEYS], bank_bytes=1 << 16, store=self.journal)

    def memory(self, name: str, model: Model) -> MemoryRecord:
        settings = MemorySettings(page_patterns=8)
        new = NewMemory(name=name, model=model.name, model_digest=model.digest, settings=settings)
        return record_of(self.journal.create([new])[0])

    def put(
        self, operation: Operation, memory: MemoryRecord, values: Values | None = None, *, task: Task | None = None
    ) -> Job:
        """A job as servicers make it: checked against the model that the memory is of now."""
        model = next(one for one in (ONE, OTHER, KEYS) if one.digest == memory.model_digest)
        query = operation is Operation.QUERY
        job = Job(
            operation=operation,
            memory=memory,
            future=self.loop.create_future(),
            values=values,
            layout=None if values is None else model.layout,
            steps=model.steps if query else 0,
            own_steps=query,
            task=task,
        )
        self.queue.put(job)
        return job

    def tend(self, memory: MemoryRecord, task: Task) -> Job:
        return self.put(Operation.TASK, memory, task=task)

    def run(self) -> dict[Job, Outcome | ServerError]:
        """Computes all that waits, batch after batch."""
        answers: dict[Job, Outcome | ServerError] = {}
        while batch := self.queue.take(lambda _: 100, 0.0):
            for job, outcome in zip(batch, self.engine.run(batch), strict=True):
                answers[job] = outcome
                if isinstance(outcome, ServerError):
                    job.fail(outcome)
                elif not isinstance(outcome, Unfinished):
                    job.succeed(outcome)
        return answers

    def one(self, job: Job) -> Outcome | ServerError:
        return self.run()[job]

    def becomes(self, memory: MemoryRecord, model: Model) -> Job:
        return self.tend(memory, Rebuild(model.name, model.digest, 8, "model"))

    def of_both(self, name: str) -> MemoryRecord:
        """A memory of OTHER that was one of ONE, with a snapshot of either time, named so."""
        memory = self.memory(name, ONE)
        self.put(Operation.STORE, memory, patterns(0))
        self.tend(memory, TakeSnapshot("one"))
        self.becomes(memory, OTHER)
        self.tend(memory, TakeSnapshot("other"))
        assert not any(isinstance(outcome, ServerError) for outcome in self.run().values())
        assert memory.model_digest == OTHER.digest
        return memory


@pytest.fixture
def house(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> Iterator[House]:
    made = House(tmp_path, loop)
    yield made
    made.database.close()


def recalled(outcome: Outcome | ServerError) -> Values:
    assert isinstance(outcome, Recalled)
    return outcome.values


def alone(house: House, model: Model, seed: int) -> Values:
    """What a memory recalls that nothing was done beside."""
    memory = house.memory(f"alone/{model.name}{seed}", model)
    house.put(Operation.STORE, memory, patterns(seed))
    return recalled(house.one(house.put(Operation.QUERY, memory, patterns(seed))))


@pytest.mark.parametrize("behind", [Operation.STORE, Operation.QUERY])
@pytest.mark.parametrize("theirs", [ONE, OTHER], ids=["one", "other"])
def test_requests_behind_a_restore_are_computed_by_the_model_that_it_brings(
    house: House, behind: Operation, theirs: Model
) -> None:
    memory, others = house.of_both("mine/m"), [house.memory(name, theirs) for name in OTHERS]
    restore = house.tend(memory, Restore("one"))
    late = house.put(behind, memory, patterns(0))
    stores = [house.put(Operation.STORE, other, patterns(n + 1)) for n, other in enumerate(others)]
    answers = house.run()
    assert isinstance(answers[restore], TaskDone)
    assert [answers[store] for store in stores] == [Stored(1, 1)] * len(others)
    if behind is Operation.STORE:
        assert isinstance(answers[late], Stored)
    else:
        assert_allclose(recalled(answers[late]), alone(house, ONE, 0), atol=1e-5)
    queries = [house.put(Operation.QUERY, other, patterns(n + 1)) for n, other in enumerate(others)]
    answers = house.run()
    for n, query in enumerate(queries):
        assert_allclose(recalled(answers[query]), alone(house, theirs, n + 1), atol=1e-5)


def test_memories_that_change_their_models_again_and_again_share_no_place_with_others(house: House) -> None:
    mine = [house.of_both(f"mine/{number}") for number in range(3)]
    for tag in ("one", "other", "one"):
        for n, memory in enumerate(mine):
            house.tend(memory, Restore(tag))
            house.put(Operation.STORE, memory, patterns(n))
        assert not any(isinstance(outcome, ServerError) for outcome in house.run().values())
    deletions = [house.put(Operation.DELETE, memory) for memory in mine]
    answers = house.run()
    assert [answers[deletion] for deletion in deletions] == [Deleted()] * len(mine)
    others = [house.memory(name, model) for model in (ONE, OTHER) for name in (f"{model.name}/a", f"{model.name}/b")]
    for n, other in enumerate(others):
        house.put(Operation.STORE, other, patterns(n))
    house.run()
    places = [(page.home, page.place) for other in others for page in other.pages]
    assert len(set(places)) == len(places) == len(others)


def test_what_was_sent_for_other_fields_is_refused_and_what_others_sent_is_not(house: House) -> None:
    memory, other = house.memory("mine/m", ONE), house.memory("other/m", KEYS)
    rebuild = house.becomes(memory, KEYS)
    late = [house.put(operation, memory, patterns(0)) for operation in (Operation.STORE, Operation.QUERY)]
    store = house.put(Operation.STORE, other, patterns(1, model=KEYS))
    answers = house.run()
    assert isinstance(answers[rebuild], TaskDone)
    assert answers[store] == Stored(1, 1)
    for job in late:
        assert isinstance(answers[job], ModelChanged)
        assert "expected fields key" in str(answers[job])
    assert house.one(house.put(Operation.STORE, memory, patterns(2, model=KEYS))) == Stored(2, 1)


def test_a_batch_of_two_models_is_computed_by_each_its_own(house: House) -> None:
    one, other = house.memory("a", ONE), house.memory("b", OTHER)
    jobs = [house.put(Operation.STORE, memory, patterns(n)) for n, memory in enumerate((one, other))]
    assert house.engine.run(jobs) == [Stored(1, 1)] * 2
    assert {memory.pages[0].home for memory in (one, other)} == {
        house.engine._states[model.digest].bank for model in (ONE, OTHER)
    }


def test_a_deletion_that_fails_for_a_reason_nobody_foresaw_fails_alone(house: House) -> None:
    broken, fine = house.memory("broken", ONE), house.memory("fine", ONE)
    house.put(Operation.STORE, broken, patterns(0))
    house.put(Operation.STORE, fine, patterns(1))
    house.run()
    page = broken.pages[0]
    broken.pages.insert(0, Page(place=page.place, home=page.home))  # which that bank does not have
    wrong, right = (house.put(Operation.DELETE, memory) for memory in (broken, fine))
    answers = house.run()
    assert isinstance(answers[wrong], ServerError)
    assert answers[right] == Deleted()


def test_a_bank_neither_frees_nor_reads_nor_writes_a_page_of_another(house: House) -> None:
    one, other = (house.engine._states[model.digest].bank for model in (ONE, OTHER))
    memory = house.memory("m", ONE)
    house.put(Operation.STORE, memory, patterns(0))
    house.run()
    page, before = memory.pages[0], one.image(memory.pages[0])
    fast = {name: torch.ones(1, *tensor.shape) for name, tensor in OTHER.parameters.initial.items()}
    with pytest.raises(ValueError, match="not of this bank"):
        other.release(page)
    with pytest.raises(ValueError, match="not of this bank"):
        other.bring([page])
    with pytest.raises(ValueError, match="not of this bank"):
        other.publish([page], fast)
    assert page.place
    assert one.image(page) == before
    house.engine.check()
