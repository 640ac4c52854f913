"""What takes long is done in parts: others have their turns in between, and the answers are the same."""

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

import anyio
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tests.support.engine_bench import Bench, Values
from tests.support.recorder import Recorder, batches_after, held, job, memory, running

from attractor_server.energy.model import Model
from attractor_server.errors import Cancelled, Expired, MemoryNotFound, ServerError
from attractor_server.memories.outcomes import Outcome, Stored, Unfinished
from attractor_server.memories.page import Page
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Job, Operation

Loop = asyncio.AbstractEventLoop
FEW = MemorySettings(write="stream", page_patterns=4)
PATTERNS, PAGES = 160, 40


def signs(count: int, seed: int = 0) -> Values:
    return np.sign(np.random.default_rng(seed).standard_normal((count, 128))).astype(np.float32)


def bench_of(model: Model, loop: Loop, *, settings: MemorySettings = FEW) -> Bench:
    """One whose memory `m` has many pages."""
    made = Bench(model, loop, bank_bytes=64 << 20, settings=settings, part_s=0.0)
    made.store("m", signs(PATTERNS))
    assert len(made.pages("m")) == PAGES
    return made


def in_parts(made: Bench, one: Job) -> tuple[Outcome | ServerError, int]:
    """The outcome, and how often others could have had their turn before."""
    one.cut, stops = True, 0
    while isinstance(outcome := made.run(one)[0], Unfinished):
        stops += 1
    return outcome, stops


def assert_same(one: Outcome | ServerError, other: Outcome | ServerError) -> None:
    assert type(one) is type(other)
    for field in fields(one):  # type: ignore[arg-type]
        assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


@pytest.mark.parametrize("operation", [Operation.QUERY, Operation.RECOGNIZE])
def test_what_is_read_in_parts_is_what_is_read_at_once(operation: Operation, loop: Loop, binary: Model) -> None:
    made, cues = bench_of(binary, loop), signs(PATTERNS)
    cues[:, :40] *= -1
    whole = made.run(made.job(operation, "m", cues))[0]
    outcome, stops = in_parts(made, made.job(operation, "m", cues))
    assert_same(outcome, whole)
    assert stops > 4


@pytest.mark.parametrize("write", ["stream", "rewrite"])
def test_what_is_stored_or_erased_in_parts_is_what_it_is_at_once(loop: Loop, binary: Model, write: str) -> None:
    settings = MemorySettings(write="stream" if write == "stream" else "rewrite", page_patterns=4)
    cut, whole = (bench_of(binary, loop, settings=settings) for _ in range(2))
    for operation, values in ((Operation.STORE, signs(90, seed=1)), (Operation.ERASE, signs(70))):
        outcome, stops = in_parts(cut, cut.job(operation, "m", values))
        assert_same(outcome, whole.run(whole.job(operation, "m", values))[0])
        assert stops > 2
        assert cut.pages("m") == whole.pages("m")
    np.testing.assert_allclose(cut.recall("m", signs(90, seed=1)), whole.recall("m", signs(90, seed=1)), atol=1e-5)


def test_others_are_served_between_the_parts(loop: Loop, binary: Model) -> None:
    made = bench_of(binary, loop)
    made.store("other", signs(3))
    alone = made.recall("other", signs(3))
    long = made.job(Operation.QUERY, "m", signs(PATTERNS))
    long.cut = True
    assert isinstance(made.run(long)[0], Unfinished)
    assert_array_equal(made.recall("other", signs(3)), alone)
    assert_same(in_parts(made, long)[0], made.run(made.job(Operation.QUERY, "m", signs(PATTERNS)))[0])


def test_a_store_whose_memory_goes_between_its_parts_leaves_nothing_in_the_bank(loop: Loop, binary: Model) -> None:
    made = bench_of(binary, loop)
    bank = made.engine._states[binary.digest].bank
    before = len(bank._free)
    long = made.job(Operation.STORE, "m", signs(90, seed=1))
    long.cut = True
    while len(bank._free) == before:
        assert isinstance(made.run(long)[0], Unfinished)
    made.memory("m").deleted = True
    assert isinstance(made.run(long)[0], MemoryNotFound)
    assert len(bank._free) == before


def test_what_nobody_waits_for_any_more_is_dropped(loop: Loop, binary: Model) -> None:
    made = bench_of(binary, loop)
    long = made.job(Operation.QUERY, "m", signs(PATTERNS))
    long.cut = long.started = True
    assert isinstance(made.run(long)[0], Unfinished)
    long.withdraw()
    assert isinstance(long.future.exception(), Cancelled)
    made.recall("other", signs(3))
    assert not made.engine._parts._under_way


class Slow(Recorder):
    """Needs so many parts for jobs that are done in parts."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self._parts = parts

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        outcomes = super().run(jobs)
        return [Unfinished() if one.cut and one.parts < self._parts else outcomes[0] for one in jobs]


async def test_others_have_their_turns_between_the_parts_and_the_memory_keeps_its_order() -> None:
    large = memory("a/0")
    async with held(computer := Slow(4), batch=100) as batcher:
        jobs = [
            long := job(Operation.QUERY, large, size=500),
            behind := job(Operation.STORE, large),
            last := job(Operation.QUERY, large),
            *(others := [job(Operation.QUERY, memory(f"b/{n}"), size=60) for n in range(8)]),
        ]
        made = await batches_after(computer, batcher, jobs)
    of_large = [one for batch in made for one in batch if one.memory is large]
    assert of_large == [long] * 4 + [behind, last]
    at = [n for n, batch in enumerate(made) if long in batch]
    assert all(made[n] == [long] for n in at)
    assert all(any(one in others for batch in made[n + 1 : m] for one in batch) for n, m in pairwise(at))


async def test_requests_that_search_the_same_pages_are_done_in_the_same_parts() -> None:
    large = memory("a/0")
    large.pages[:] = [Page(number=number) for number in range(1000)]
    async with held(computer := Slow(3), batch=50) as batcher:
        jobs = [job(Operation.QUERY, large) for _ in range(100)]
        made = await batches_after(computer, batcher, [*jobs, behind := job(Operation.STORE, large)])
    assert made == [jobs[:64]] * 3 + [jobs[64:]] * 3 + [[behind]]


async def test_who_is_cut_and_no_longer_wanted_makes_room_for_those_behind_it() -> None:
    large = memory("a/0")
    async with running(computer := Slow(1000), waiting=1000, batch=10) as batcher:
        batcher.offer(long := job(Operation.QUERY, large, size=100))
        late = job(Operation.RECOGNIZE, large, size=100, deadline_s=asyncio.get_running_loop().time() + 0.01)
        batcher.offer(late)
        await computer.next_batch()
        batcher.offer(behind := job(Operation.STORE, large))
        long.withdraw()
        computer.free.release(1000)
        with anyio.fail_after(20):
            assert await behind.future == Stored(version=1, patterns=1)
    assert isinstance(long.future.exception(), Cancelled)
    assert isinstance(late.future.exception(), Expired)
