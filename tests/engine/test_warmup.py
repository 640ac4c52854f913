"""Warming runs everything once, and nobody sees what it ran on."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import anyio
import pytest
from tests.support.recorder import Recorder, job, memory
from tests.support.tiny_models import IMAGE, able_model, tiny_model

from attractor_server.energy.model import Model
from attractor_server.engine.engine import Engine
from attractor_server.engine.warmup import Warmup, shapes
from attractor_server.errors import ServerError
from attractor_server.memories.outcomes import Outcome
from attractor_server.scheduling.batcher import Batcher
from attractor_server.scheduling.jobs import Job, Operation

TINY, ABLE = replace(tiny_model("tiny", IMAGE), digest="tiny"), replace(able_model("able", IMAGE), digest="able")
BANK_BYTES = 1 << 15


class Watched:
    """An engine that is watched."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._engine = Engine(models, bank_bytes=BANK_BYTES)
        self.batches: list[Sequence[Job]] = []
        self.outcomes: list[Outcome | ServerError] = []

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        self.batches.append(jobs)
        outcomes = self._engine.run(jobs)
        self.outcomes += outcomes
        return outcomes


async def warmed(engine: Watched, *models: Model) -> Warmup:
    warming = Warmup(engine, models, bank_bytes=BANK_BYTES, budget_s=60.0)
    for step in chain(warming.steps(), warming.more()):
        await asyncio.to_thread(step)
    return warming


async def test_every_operation_that_a_model_has_learned_runs_and_none_fails() -> None:
    engine = Watched([TINY, ABLE])
    warming = await warmed(engine, TINY, ABLE)
    ran = {(batch[0].memory.model, batch[0].operation, batch[0].pull) for batch in engine.batches}
    others = Operation.ERASE, Operation.TASK, Operation.EVICT, Operation.SEARCH  # which reads as a query does
    common = {(op, False) for op in Operation if op not in others}
    assert {(operation, pull) for model, operation, pull in ran if model == "tiny"} == common
    able = common | {(Operation.ERASE, False), (Operation.QUERY, True)}
    assert {(operation, pull) for model, operation, pull in ran if model == "able"} == able
    assert not [outcome for outcome in engine.outcomes if isinstance(outcome, ServerError)]
    assert set(warming.took_s) == {"tiny", "able"}
    assert warming.done.is_set()


async def test_several_memories_and_several_patterns_are_among_the_shapes() -> None:
    engine = Watched([TINY])
    await warmed(engine, TINY)
    met = {(len(batch), batch[0].size) for batch in engine.batches if batch[0].operation is Operation.QUERY}
    room = BANK_BYTES // TINY.page_bytes
    assert {(1, 1), (1, 64), (2, 1), (2, 64)} <= met
    assert met == {(memories, patterns) for memories, patterns in shapes(1024) if memories <= room // 8}


async def test_when_time_is_up_the_smallest_shape_has_been_met_all_the_same() -> None:
    engine = Watched([TINY])
    warming = Warmup(engine, [TINY], bank_bytes=BANK_BYTES, budget_s=1e-9)
    for step in chain(warming.steps(), warming.more()):
        await asyncio.to_thread(step)
    assert {(len(batch), batch[0].size) for batch in engine.batches if batch[0].values is not None} == {(1, 1)}


async def test_all_that_was_stored_is_deleted_again() -> None:
    engine = Watched([ABLE])
    await warmed(engine, ABLE)
    records = {one.memory for batch in engine.batches for one in batch}
    deleted = [one.memory for batch in engine.batches if batch[0].operation is Operation.DELETE for one in batch]
    assert set(deleted) == records
    assert not any(record.pages for record in records)


async def test_an_engine_that_fails_while_it_is_warmed_is_told_of_and_serves(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Watched):
        def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
            raise ZeroDivisionError("in a program")

    warming = await warmed(Failing([TINY]), TINY)
    assert warming.done.is_set()
    assert "in a program" in caplog.text


async def test_what_comes_while_the_engine_is_warmed_waits() -> None:
    computer = Recorder()
    batcher = Batcher(computer, waiting_limit=10, batch_limit=10)
    steps: list[str] = []
    computer.free.release()
    async with anyio.create_task_group() as tasks:
        batcher.offer(early := job(Operation.QUERY, memory("a")))
        tasks.start_soon(batcher.run, [lambda: steps.append(f"{len(computer.batches)} batches") for _ in range(2)])
        with anyio.fail_after(20):
            await early.future
        tasks.cancel_scope.cancel()
    assert steps == ["0 batches", "0 batches"]


async def test_on_a_cpu_a_shard_serves_once_each_model_has_run_and_other_shapes_come_later() -> None:
    engine = Watched([TINY, ABLE])
    warming = Warmup(engine, [TINY, ABLE], bank_bytes=BANK_BYTES, budget_s=60.0)
    for step in warming.steps():
        await asyncio.to_thread(step)
    assert warming.done.is_set()
    assert {(len(batch), batch[0].size) for batch in engine.batches if batch[0].values is not None} == {(1, 1)}
    assert {batch[0].memory.model for batch in engine.batches} == {"tiny", "able"}


async def test_what_can_be_done_later_is_done_when_nothing_waits() -> None:
    computer = Recorder()
    batcher = Batcher(computer, waiting_limit=10, batch_limit=10)
    steps: list[str] = []
    done = asyncio.Event()
    computer.free.release(2)
    loop = asyncio.get_running_loop()
    later = [lambda: steps.append(f"{len(computer.batches)} batches")] * 2
    last = partial(loop.call_soon_threadsafe, done.set)
    async with anyio.create_task_group() as tasks:
        waiting = [job(Operation.QUERY, memory("a")), job(Operation.STORE, memory("b"))]
        for one in waiting:
            batcher.offer(one)
        tasks.start_soon(partial(batcher.run, between=[*later, last]))
        with anyio.fail_after(20):
            await done.wait()
        tasks.cancel_scope.cancel()
    assert all(one.future.done() for one in waiting)
    assert steps == ["2 batches", "2 batches"]
