"""Which jobs go into a batch together, and which wait."""

import anyio
import pytest
from tests.support.recorder import Recorder, batches_after, held, job, memory, running

from attractor_server.errors import Cancelled, Expired, QueueFull, ServerError
from attractor_server.memories.outcomes import Stored
from attractor_server.scheduling.jobs import Operation


async def test_stores_share_a_batch_whether_of_one_memory_or_of_several() -> None:
    a, b = memory("a"), memory("b")
    jobs = [job(Operation.STORE, a), job(Operation.STORE, a), job(Operation.STORE, b)]
    async with held(computer := Recorder()) as batcher:
        made = await batches_after(computer, batcher, jobs)
    assert made == [jobs]


@pytest.mark.parametrize("operation", [Operation.ERASE, Operation.DELETE])
async def test_erases_and_deletions_of_one_memory_are_computed_one_after_another(operation: Operation) -> None:
    a, b = memory("a"), memory("b")
    jobs = [job(operation, a), job(operation, a), job(operation, b)]
    async with held(computer := Recorder()) as batcher:
        made = await batches_after(computer, batcher, jobs)
    assert made == [[jobs[0], jobs[2]], [jobs[1]]]


async def test_stores_merge_only_up_to_a_query_that_stands_between_them() -> None:
    a = memory("a")
    order = [Operation.QUERY, Operation.STORE, Operation.STORE, Operation.QUERY, Operation.STORE]
    jobs = [job(operation, a) for operation in order]
    async with held(computer := Recorder()) as batcher:
        made = await batches_after(computer, batcher, jobs)
    assert made == [jobs[:1], jobs[1:3], jobs[3:4], jobs[4:]]


async def test_no_job_overtakes_another_of_its_memory() -> None:
    a, b = memory("a"), memory("b")
    jobs = [job(Operation.QUERY, a), job(Operation.STORE, a), job(Operation.QUERY, a), job(Operation.QUERY, b)]
    async with held(computer := Recorder()) as batcher:
        made = await batches_after(computer, batcher, jobs)
    assert made == [[jobs[0], jobs[3]], [jobs[1]], [jobs[2]]]


async def test_a_batch_holds_one_program_and_no_more_than_its_limit() -> None:
    of = [memory(str(n)) for n in range(6)]
    jobs = [job(Operation.QUERY, one, size=2, steps=5) for one in of[:4]]
    jobs += [job(Operation.QUERY, of[4], steps=7), job(Operation.QUERY, memory("x", "another model"), steps=5)]
    async with held(computer := Recorder(), batch=4) as batcher:
        made = await batches_after(computer, batcher, jobs)
    assert made == [jobs[0:2], jobs[2:4], [jobs[4]], [jobs[5]]]


async def test_iterates_that_are_asked_for_count_as_patterns_do() -> None:
    jobs = [job(Operation.QUERY, memory(str(n)), size=2, steps=4, trajectory=True) for n in range(2)]
    assert [one.weight for one in jobs] == [10, 10]
    async with held(computer := Recorder(), batch=15) as batcher:
        assert await batches_after(computer, batcher, jobs) == [[jobs[0]], [jobs[1]]]


async def test_what_is_withdrawn_or_late_leaves_the_queue_and_is_not_computed() -> None:
    a, b = memory("a"), memory("b")
    withdrawn, late, wanted = job(Operation.STORE, a), job(Operation.STORE, b, deadline_s=0.0), job(Operation.STORE, a)
    withdrawn.withdraw()
    async with held(computer := Recorder()) as batcher:
        made = await batches_after(computer, batcher, [withdrawn, late, wanted])
    assert made == [[wanted]]
    assert isinstance(withdrawn.future.exception(), Cancelled)
    assert isinstance(late.future.exception(), Expired)


async def test_what_has_started_cannot_be_withdrawn() -> None:
    async with running(computer := Recorder()) as batcher:
        batcher.offer(started := job(Operation.STORE, memory("a")))
        await computer.next_batch()
        started.withdraw()
        computer.free.release()
        assert await started.future == Stored(version=1, patterns=1)


async def test_offer_refuses_what_has_no_room_and_submit_waits_for_it() -> None:
    async with running(computer := Recorder(), waiting=4) as batcher:
        batcher.offer(job(Operation.QUERY, memory("blocker")))
        await computer.next_batch()
        batcher.offer(job(Operation.QUERY, memory("a"), size=4))
        with pytest.raises(QueueFull, match="4 patterns are waiting on this shard, at most 4 may, 4 of them of names"):
            batcher.offer(refused := job(Operation.QUERY, memory("b")))
        assert isinstance(refused.future.exception(), QueueFull)
        patient = job(Operation.QUERY, memory("c"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(batcher.submit, patient)
            await anyio.wait_all_tasks_blocked()
            assert not patient.future.done()
            computer.free.release(2)
        computer.free.release(2)
        assert await patient.future == Stored(version=1, patterns=1)


async def test_a_job_larger_than_the_bound_goes_alone() -> None:
    async with running(computer := Recorder(), waiting=4, batch=4) as batcher:
        batcher.offer(large := job(Operation.STORE, memory("a"), size=9))
        computer.free.release()
        assert await large.future == Stored(version=1, patterns=9)


async def test_whoever_is_cancelled_while_waiting_for_room_withdraws_the_job() -> None:
    async with running(computer := Recorder(), waiting=1) as batcher:
        batcher.offer(job(Operation.QUERY, memory("blocker")))
        await computer.next_batch()
        batcher.offer(job(Operation.QUERY, memory("a")))
        impatient = job(Operation.QUERY, memory("b"))
        with anyio.move_on_after(0.01):
            await batcher.submit(impatient)
        assert isinstance(impatient.future.exception(), Cancelled)


async def test_a_failing_engine_fails_its_batch_and_serves_the_next(caplog: pytest.LogCaptureFixture) -> None:
    async with running(computer := Recorder()) as batcher:
        computer.fault = ZeroDivisionError("in the engine")
        computer.free.release()
        batcher.offer(failing := job(Operation.STORE, memory("a")))
        with pytest.raises(ServerError, match="the server's log says why"):
            await failing.future
        assert "in the engine" in caplog.text
        computer.fault = None
        computer.free.release()
        batcher.offer(next_one := job(Operation.STORE, memory("a")))
        assert await next_one.future == Stored(version=1, patterns=1)
