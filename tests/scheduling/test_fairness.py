"""Namespaces do not stand in one another's way: in the order of work, and in the room for what waits."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.recorder import Recorder, batches_after, held, job, memory, running

from attractor_server.errors import Cancelled, QueueFull, ServerError
from attractor_server.memories.names import namespace_of
from attractor_server.memories.outcomes import Outcome, Stored
from attractor_server.scheduling.batcher import Batcher
from attractor_server.scheduling.fairness import LEAD_LIMIT
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.scheduling.queue import TURN_LIMIT

READS = (Operation.QUERY, Operation.RECOGNIZE)


def flood(namespace: str, count: int, *, size: int = 1, **more: object) -> list[Job]:
    """Queries of so many memories of a namespace."""
    return [job(Operation.QUERY, memory(f"{namespace}/{n}"), size=size, **more) for n in range(count)]


def shares(batch: Sequence[Job]) -> Counter[str]:
    """Patterns of each namespace."""
    patterns: Counter[str] = Counter()
    for one in batch:
        patterns[namespace_of(one.memory.name)] += one.size
    return patterns


@pytest.mark.parametrize(
    ("name", "namespace"), [("a/b/c", "a"), ("a/b", "a"), ("plain", ""), ("..", ""), ("a.b/c", "a.b")]
)
def test_a_namespace_ends_at_the_first_slash_and_plain_names_share_one(name: str, namespace: str) -> None:
    assert namespace_of(name) == namespace


async def test_a_flood_of_one_namespace_does_not_keep_another_out_of_the_next_batch() -> None:
    async with held(computer := Recorder(), batch=256) as batcher:
        late = job(Operation.QUERY, memory("b/0"))
        made = await batches_after(computer, batcher, [*flood("a", 2000), late])
    assert late in made[0]
    assert len(made[0]) == 64  # who asked for little does not wait for a batch that others fill
    assert all(len(batch) == 256 for batch in made[1:-1])


async def test_those_who_ask_for_little_share_a_batch_however_many_they_are() -> None:
    async with held(computer := Recorder(), batch=256) as batcher:
        jobs = [one for n in range(200) for one in flood(f"n{n}", 1)]
        made = await batches_after(computer, batcher, [*flood("a", 1000), *jobs])
    assert set(jobs) <= set(made[0])
    assert len(made[0]) == 201


async def test_a_batch_is_shared_out_evenly_in_patterns_not_in_requests() -> None:
    async with held(computer := Recorder(), batch=16 * TURN_LIMIT) as batcher:
        jobs = [*flood("a", 500, size=16), *flood("b", 8000), *flood("c", 1000, size=8)]
        made = await batches_after(computer, batcher, jobs)
    for batch in made[:8]:
        assert max(shares(batch).values()) - min(shares(batch).values()) <= 2 * TURN_LIMIT
        assert len(shares(batch)) == 3


async def test_namespaces_that_ask_for_different_programs_get_alike() -> None:
    async with held(computer := Recorder(), batch=100) as batcher:
        jobs = [*flood("a", 1000, steps=5), *flood("b", 1000, steps=7), *flood("c", 1000, steps=7)]
        made = await batches_after(computer, batcher, jobs)
    served: Counter[str] = Counter()
    for batch in made[:24]:
        served += shares(batch)
        assert len({one.program for one in batch}) == 1
        assert max(served[name] for name in "abc") - min(served[name] for name in "abc") <= 100 + TURN_LIMIT


async def test_a_namespace_that_was_idle_is_owed_nothing_for_that() -> None:
    async with held(computer := Recorder(), batch=100) as batcher:
        for one in flood("a", 3000):
            batcher.offer(one)
        for _ in range(10):
            computer.free.release()
            await computer.next_batch()
        made = await batches_after(computer, batcher, flood("b", 1000))
    assert all(shares(batch)["a"] >= 30 for batch in made[12:20])


async def test_who_asks_anew_whenever_it_was_served_gets_no_more_than_who_always_waits() -> None:
    served: Counter[str] = Counter()
    async with held(computer := Recorder(), batch=30) as batcher:
        for one in flood("always", 2000):
            batcher.offer(one)
        for n in range(60):
            if not any(namespace_of(one.memory.name) == "anew" for one in batcher.waiting):
                batcher.offer(job(Operation.QUERY, memory(f"anew/{n}"), size=25))
            computer.free.release()
            await computer.next_batch()
            served += shares(computer.batches[-1])
    assert 0.8 < served["anew"] / served["always"] < 1.25


async def test_who_asks_for_less_than_its_share_goes_first_with_all_that_comes_at_once() -> None:
    async with held(computer := Recorder(), batch=40) as batcher:
        for one in flood("loud", 2000):
            batcher.offer(one)
        for n in range(20):
            burst = [job(Operation.QUERY, memory(f"quiet/{n}/{k}"), size=5) for k in range(5)]
            for one in burst:
                batcher.offer(one)
            for turn in range(3):
                computer.free.release()
                await computer.next_batch()
                if turn == 0 and n > 0:
                    assert set(burst) <= set(computer.batches[-1])


async def test_who_was_served_much_while_there_was_room_is_not_kept_waiting_for_long() -> None:
    busy = memory("b/0")
    async with held(computer := Recorder(), batch=1000) as batcher:
        for one in flood("a", 60, size=500):
            batcher.offer(one)
        batcher.offer(job(Operation.QUERY, busy))
        for _ in range(40):  # `b` asks for little in each batch, `a` gets the rest
            computer.free.release()
            await computer.next_batch()
            assert shares(computer.batches[-1]) == {"a": 500, "b": 1}
            batcher.offer(job(Operation.QUERY, busy))
        made = await batches_after(computer, batcher, flood("b", 10_000))
    first = next(n for n, batch in enumerate(made[40:]) if shares(batch)["a"])
    assert first <= LEAD_LIMIT // 1000 + 1


async def test_a_memory_with_many_requests_shares_its_turns_with_others_of_its_namespace() -> None:
    busy = memory("a/busy")
    async with held(computer := Recorder(), batch=2 * TURN_LIMIT) as batcher:
        other = job(Operation.QUERY, memory("a/other"))
        made = await batches_after(computer, batcher, [*(job(Operation.QUERY, busy) for _ in range(500)), other])
    assert other in made[0]
    assert len(made[0]) == 2 * TURN_LIMIT


class Everything:
    """Computes at once, and keeps the order."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Job]] = []

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        self.batches.append(jobs)
        return [Stored(version=1, patterns=one.size) for one in jobs]


Request = tuple[int, Operation, int, int, bool]
REQUESTS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(Operation), st.integers(1, 9), st.integers(1, 2), st.booleans()),
    max_size=60,
)


@settings(deadline=None)
@given(REQUESTS, st.integers(1, 30))
def test_under_any_interleaving_each_memory_is_served_in_order_and_everything_once(
    requests: Sequence[Request], limit: int
) -> None:
    memories = [memory(name) for name in ("a/0", "a/1", "b/0", "b/1", "c", "d")]

    async def serve(computer: Everything) -> list[Job]:
        batcher = Batcher(computer, waiting_limit=50, batch_limit=limit)
        jobs: list[Job] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(batcher.run)
            for which, operation, size, steps, pause in requests:
                jobs.append(job(operation, memories[which], size=size, steps=steps if operation in READS else 0))
                await batcher.submit(jobs[-1])
                assert batcher.waiting_weight <= 50 + 9
                if pause:
                    await anyio.lowlevel.checkpoint()
            with anyio.fail_after(20):
                await batcher.wait_until_idle()
            tasks.cancel_scope.cancel()
        return jobs

    jobs = asyncio.run(serve(computer := Everything()))
    computed = [one for batch in computer.batches for one in batch]
    for of in memories:
        assert [one for one in computed if one.memory is of] == [one for one in jobs if one.memory is of]
    assert Counter(map(id, computed)) == Counter(map(id, jobs))
    for batch in computer.batches:
        check(batch, limit)


def check(batch: Sequence[Job], limit: int) -> None:
    assert len({one.program for one in batch}) == 1
    assert len(batch) == 1 or sum(one.weight for one in batch) <= limit
    if batch[0].operation in (Operation.ERASE, Operation.DELETE):
        assert max(Counter(one.memory.name for one in batch).values()) == 1


async def test_one_namespace_alone_fills_half_of_the_room_and_the_next_one_half_of_the_rest() -> None:
    taken: Counter[str] = Counter()
    refused: list[Job] = []
    async with held(computer := Recorder(), waiting=120) as batcher:
        for name in "abc":
            for one in flood(name, 120):
                try:
                    batcher.offer(one)
                    taken[name] += 1
                except QueueFull:
                    refused.append(one)
        assert taken == {"a": 60, "b": 30, "c": 15}
        assert batcher.waiting_weight == 105
        computer.free.release(1000)
    assert "60 of them of namespace 'a', which may have as many as are left free" in str(refused[0].future.exception())


async def test_namespaces_that_want_more_than_there_is_end_with_the_same_each() -> None:
    async with held(computer := Recorder(), waiting=120, batch=12) as batcher, anyio.create_task_group() as tasks:
        for name in "abc":
            for one in flood(name, 200):
                tasks.start_soon(batcher.submit, one)
        await anyio.wait_all_tasks_blocked()
        for _ in range(20):
            computer.free.release()
            await computer.next_batch()
        assert all(28 <= count <= 31 for count in shares(batcher.waiting).values())
        assert batcher.waiting_weight <= 120
        computer.free.release(1000)


async def test_who_waits_for_room_holds_back_its_own_namespace_alone_and_is_not_overtaken_there() -> None:
    async with held(computer := Recorder(), waiting=8, batch=1) as batcher, anyio.create_task_group() as tasks:
        a = memory("a/0")
        for _ in range(4):
            batcher.offer(job(Operation.STORE, a))
        patient = [job(Operation.STORE, a, size=3) for _ in range(3)]
        for one in patient:
            tasks.start_soon(batcher.submit, one)
            await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(20):
            await batcher.submit(other := job(Operation.STORE, memory("b/0")))
        assert other in batcher.waiting
        computer.free.release()
        await computer.next_batch()
        with pytest.raises(QueueFull):  # there would be room for this one, and there is none for the first in line
            batcher.offer(job(Operation.STORE, a))
        computer.free.release(1000)
    computed = [batch[0] for batch in computer.batches]
    assert [one for one in computed if one in patient] == patient


async def test_who_brings_many_lets_others_have_the_event_loop_in_between() -> None:
    done: list[str] = []
    async with held(computer := Recorder()) as batcher, anyio.create_task_group() as tasks:

        async def bring() -> None:
            for one in flood("a", 200):
                await batcher.submit(one)
            done.append("many")

        async def bring_one() -> None:
            await batcher.submit(job(Operation.QUERY, memory("b/0")))
            done.append("one")

        tasks.start_soon(bring)
        tasks.start_soon(bring_one)
        await anyio.wait_all_tasks_blocked()
        computer.free.release(1000)
    assert done == ["one", "many"]


async def test_a_large_first_request_of_a_namespace_finds_room_beside_a_flood() -> None:
    async with held(computer := Recorder(), waiting=100) as batcher:
        for one in flood("a", 50):
            batcher.offer(one)
        batcher.offer(large := job(Operation.STORE, memory("b/0"), size=90))
        assert large in batcher.waiting
        computer.free.release(1000)


async def test_a_waiting_request_that_is_cancelled_leaves_the_line_to_those_behind_it() -> None:
    async with held(computer := Recorder(), waiting=4) as batcher, anyio.create_task_group() as tasks:
        a = memory("a/0")
        for _ in range(2):
            batcher.offer(job(Operation.QUERY, a))
        impatient, patient = job(Operation.QUERY, a), job(Operation.QUERY, a)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(batcher.submit, impatient)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        tasks.start_soon(batcher.submit, patient)
        await anyio.wait_all_tasks_blocked()
        computer.free.release(1000)
    assert isinstance(impatient.future.exception(), Cancelled)
    assert [one for batch in computer.batches for one in batch][-1] is patient


async def test_a_queue_of_which_nothing_is_wanted_any_more_lets_in_who_waits() -> None:
    async with running(computer := Recorder(), waiting=2) as batcher, anyio.create_task_group() as tasks:
        batcher.offer(job(Operation.QUERY, memory("a/0")))
        await computer.next_batch()
        batcher.offer(unwanted := job(Operation.QUERY, memory("a/1")))
        tasks.start_soon(batcher.submit, wanted := job(Operation.QUERY, memory("a/2")))
        await anyio.wait_all_tasks_blocked()
        unwanted.withdraw()
        computer.free.release(2)
        with anyio.fail_after(20):
            assert await wanted.future == Stored(version=1, patterns=1)


async def sizes_of_next_batch(computer: Recorder) -> Counter[str]:
    """Patterns served in the next batch, by the name that namespaces have before their number."""
    computer.free.release()
    await computer.next_batch()
    sizes: Counter[str] = Counter()
    for one in computer.batches[-1]:
        sizes[one.memory.name.strip("0123456789/")] += one.size
    return sizes


async def test_many_namespaces_of_one_session_have_one_share_together() -> None:
    served: Counter[str] = Counter()
    async with held(computer := Recorder(), batch=32) as batcher:
        many = [one for n in range(50) for one in flood(f"many{n}", 40, size=8, origin=("here", 1))]
        for one in [*many, *flood("single", 400, size=8, origin=("here", 2))]:
            batcher.offer(one)
        for _ in range(60):
            served += await sizes_of_next_batch(computer)
            if len(computer.batches) == 5:
                assert served["single"]  # it does not wait until each of the others had its first turn
    assert 0.4 < served["single"] / served["many"] < 2.5


async def test_many_sessions_of_one_address_have_one_share_together() -> None:
    served: Counter[str] = Counter()
    async with held(computer := Recorder(), batch=32) as batcher:
        many = [one for n in range(20) for one in flood(f"many{n}", 40, size=8, origin=("here", n))]
        for one in [*many, *flood("single", 400, size=8, origin=("there", 1))]:
            batcher.offer(one)
        for _ in range(80):
            served += await sizes_of_next_batch(computer)
    assert 0.4 < served["single"] / served["many"] < 2.5
