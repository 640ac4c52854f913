"""Lost streams, drains, redirections, failures, timeouts and cancellation."""

from collections.abc import AsyncIterator

import anyio
import grpc
import numpy as np
import pytest
from tests.support.fake_server import QUICK, FakeServer, FakeSession, serving

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb

ONE = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)


async def test_a_store_unanswered_when_the_stream_is_lost_is_repeated_with_its_number(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def drop_after_applying(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store") and len(fake.of_kind("store")) == 1:
            fake.apply(fake.memories["faces"], session.client_id, frame.store.sequences[0], 1)
            await session.abort()
        yield False

    fake.hook = drop_after_applying
    assert await memory.store(ONE) == attractor.StoreResult(version=1, total=1)
    assert await memory.store(ONE) == attractor.StoreResult(version=2, total=2)
    assert [list(frame.store.sequences) for frame in fake.of_kind("store")] == [[1], [1], [2]]
    assert len({session.client_id for session in fake.sessions}) == 1


async def test_a_lost_stream_does_not_disturb_the_order_within_a_memory(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def drop_third(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if len(fake.sessions) == 1 and len(fake.of_kind("store") + fake.of_kind("query")) == 3:
            await session.abort()
        yield False

    fake.hook = drop_third
    seen: dict[int, float] = {}

    async def query(place: int) -> None:
        seen[place] = float((await memory.query(ONE)).energy_before)

    async with anyio.create_task_group() as tasks:
        for place in range(10):
            tasks.start_soon(memory.store, ONE)
            tasks.start_soon(query, place)
    assert seen == {place: place + 1 for place in range(10)}
    assert len(fake.sessions) == 2


async def test_a_request_that_fails_as_unavailable_is_repeated_with_its_number(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def refuse_twice(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store") and len(fake.of_kind("store")) <= 2:
            await session.fail(list(frame.store.columns.request_ids), "UNAVAILABLE", "OWNER_UNREACHABLE")
            yield True

    fake.hook = refuse_twice
    assert (await memory.store(ONE)).total == 1
    assert [list(frame.store.sequences) for frame in fake.of_kind("store")] == [[1], [1], [1]]
    assert len(fake.sessions) == 1


async def test_a_memory_that_cannot_be_opened_just_now_is_opened_later(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def refuse_once(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("open") and len(fake.of_kind("open")) == 1:
            await session.fail([frame.open.request_id], "UNAVAILABLE", "OWNER_UNREACHABLE")
            yield True

    fake.hook = refuse_once
    assert (await memory.store(ONE)).total == 1


async def test_other_failures_are_not_repeated_and_the_stream_goes_on(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def diverge(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store"):
            await session.fail(list(frame.store.columns.request_ids), "FAILED_PRECONDITION", "WRITE_DIVERGED")
            yield True

    fake.hook = diverge
    with pytest.raises(attractor.Diverged) as caught:
        await memory.store(ONE)
    assert caught.value.reason == "WRITE_DIVERGED"
    assert len(fake.of_kind("store")) == 1
    await memory.query(ONE)
    assert len(fake.sessions) == 1


async def test_a_draining_shard_gets_nothing_new_and_its_answers_are_waited_for(
    client: attractor.AsyncClient, fake: FakeServer
) -> None:
    held: list[tuple[FakeSession, pb.SessionRequest]] = []

    async def drain(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("query") and not held:
            held.append((session, frame))
            yield True
        elif frame.HasField("query"):
            await session.send(drain=pb.Drain())

    fake.hook = drain
    slow, fast = [await client.create_memory(name, model="tiny") for name in ("slow", "fast")]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow.query, ONE)
        await fake.until(lambda: bool(held))
        await fast.query(ONE)  # answered after the drain frame
        tasks.start_soon(fast.store, ONE)
        await anyio.wait_all_tasks_blocked()
        assert len(fake.sessions) == 1
        await fake.answer(*held[0])
    first, second = ([frame.WhichOneof("frame") for frame in session.frames] for session in fake.sessions)
    assert first == ["open", "query", "open", "query"]
    assert second == ["open", "store"]


async def test_a_restarted_server_that_forgot_the_memory_says_so(fake: FakeServer) -> None:
    async with attractor.connect(fake.address, retry=QUICK) as client:
        memory = await client.create_memory("faces", model="tiny")
        await memory.store(ONE)
        fake.memories.clear()
        for session in fake.sessions:
            session.handles.clear()

        async def drop(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
            if len(fake.sessions) == 1:
                await session.abort()
            yield False

        fake.hook = drop
        with pytest.raises(attractor.MemoryNotFound):
            await memory.query(ONE)


async def test_a_client_outlives_a_restart_of_its_server() -> None:
    async with serving(FakeServer()) as first:
        address = first.address
        async with attractor.connect(address, timeout_s=30, retry=QUICK) as client:
            memory = await client.create_memory("faces", model="tiny")
            await memory.store(ONE)
            silenced = FakeServer()
            silenced.memories = first.memories

            async def silent(_: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
                yield frame.HasField("store")

            first.hook = silent
            results: list[attractor.StoreResult] = []

            async def store() -> None:
                results.append(await memory.store(ONE))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store)
                await first.until(lambda: len(first.of_kind("store")) == 2)
                await first.stop()
                second = await tasks.start(_serve_until_stored, silenced, int(address.rpartition(":")[2]))
            assert second is silenced
    assert results == [attractor.StoreResult(version=2, total=2)]
    assert list(silenced.of_kind("store")[0].store.sequences) == [2]


async def _serve_until_stored(fake: FakeServer, port: int, *, task_status: anyio.abc.TaskStatus[FakeServer]) -> None:
    async with serving(fake, port):
        task_status.started(fake)
        await fake.until(lambda: bool(fake.of_kind("store")))
        await fake.until(lambda: fake.memories["faces"].patterns == 2)
        await anyio.wait_all_tasks_blocked()


async def test_a_named_owner_is_spoken_to_directly(fake: FakeServer) -> None:
    async with serving(FakeServer()) as owner, attractor.connect(fake.address) as client:
        memory = await client.create_memory("faces", model="tiny")
        owner.add("faces")
        fake.routes["faces"] = owner.address
        await memory.store(ONE)
        await memory.query(ONE)
        assert len(owner.of_kind("store")) == len(owner.of_kind("query")) == 1
        assert not fake.of_kind("store") + fake.of_kind("query")


async def test_a_client_that_wants_no_direct_links_stays_where_it_is(fake: FakeServer) -> None:
    async with serving(FakeServer()) as owner:
        fake.add("faces")
        owner.add("faces")
        fake.routes["faces"] = owner.address
        async with attractor.connect(fake.address, timeout_s=20, retry=QUICK, direct=False) as client:
            for _ in range(3):
                await client.memory("faces").store(ONE)
        assert owner.sessions == []
    assert fake.memories["faces"].patterns == 3


async def test_an_owner_out_of_reach_is_reached_through_the_first_shard(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    fake.routes["faces"] = "127.0.0.1:1"
    assert (await memory.store(ONE)).total == 1
    assert (await memory.store(ONE)).total == 2
    assert [list(frame.store.sequences) for frame in fake.of_kind("store")] == [[1], [2]]


async def test_an_owner_that_goes_away_is_replaced_by_the_first_shard(fake: FakeServer) -> None:
    async with attractor.connect(fake.address, timeout_s=20, retry=QUICK) as client:
        memory = await client.create_memory("faces", model="tiny")
        async with serving(FakeServer()) as owner:
            owner.memories = fake.memories
            fake.routes["faces"] = owner.address
            assert (await memory.store(ONE)).total == 1
            assert owner.of_kind("store")
        assert (await memory.store(ONE)).total == 2
        assert list(fake.of_kind("store")[0].store.sequences) == [2]


async def test_shards_that_name_each_other_are_not_followed_in_circles(fake: FakeServer) -> None:
    async with serving(FakeServer()) as other, attractor.connect(fake.address) as client:
        memory = await client.create_memory("faces", model="tiny")
        other.add("faces")
        fake.routes["faces"], other.routes["faces"] = other.address, fake.address
        assert (await memory.store(ONE, timeout_s=10)).total == 1


async def test_answers_of_different_memories_may_come_in_any_order(
    client: attractor.AsyncClient, fake: FakeServer
) -> None:
    held: list[tuple[FakeSession, pb.SessionRequest]] = []

    async def hold_first(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store"):
            held.append((session, frame))
            yield True

    slow, fast = [await client.create_memory(name, model="tiny") for name in ("slow", "fast")]
    fake.hook = hold_first
    done = anyio.Event()

    async def store() -> None:
        await slow.store(ONE)
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store)
        await fake.until(lambda: bool(held))
        await fast.query(ONE)
        assert not done.is_set()
        await fake.answer(*held[0])


async def test_a_call_not_answered_in_time_raises_and_is_cancelled_at_the_server(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def silent(_: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        yield frame.HasField("query")

    fake.hook = silent
    with pytest.raises(attractor.TimeoutExceeded, match="faces") as caught:
        await memory.query(ONE, timeout_s=0.05)
    assert isinstance(caught.value, TimeoutError)
    await fake.until(lambda: bool(fake.of_kind("cancel")))


async def test_a_cancelled_caller_sees_its_cancellation_and_late_answers_are_dropped(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    held: list[tuple[FakeSession, pb.SessionRequest]] = []

    async def hold(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("query"):
            held.append((session, frame))
        yield frame.HasField("query")

    fake.hook = hold
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(memory.query, ONE)
            await fake.until(lambda: bool(held))
            scope.cancel()
    assert scope.cancelled_caught
    await fake.until(lambda: bool(fake.of_kind("cancel")))
    await fake.answer(*held[0])
    fake.hook = None
    assert (await memory.store(ONE)).total == 1
    assert len(fake.sessions) == 1


async def test_a_callers_own_time_limit_around_a_unary_call_holds(
    client: attractor.AsyncClient, fake: FakeServer
) -> None:
    fake.stuck.add("Get")
    with anyio.move_on_after(0.05) as scope:
        await client.get_memory("faces")
    assert scope.cancelled_caught


async def test_unary_calls_are_repeated_when_unavailable(client: attractor.AsyncClient, fake: FakeServer) -> None:
    fake.unary_failures = [grpc.StatusCode.UNAVAILABLE] * 3
    assert (await client.create_memory("faces", model="tiny")).name == "faces"
    assert not fake.unary_failures


async def test_a_delete_whose_answer_was_lost_is_done_all_the_same(
    client: attractor.AsyncClient, fake: FakeServer
) -> None:
    fake.add("faces")
    fake.unary_failures = [grpc.StatusCode.UNAVAILABLE]
    await client.delete_memory("faces")
    with pytest.raises(attractor.MemoryNotFound):
        await client.delete_memory("faces")


async def test_a_call_that_stays_unavailable_ends_at_its_timeout_and_says_why(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def refuse(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store"):
            await session.fail(list(frame.store.columns.request_ids), "UNAVAILABLE", "OWNER_UNREACHABLE")
            yield True

    fake.hook = refuse
    with pytest.raises(attractor.TimeoutExceeded, match="OWNER_UNREACHABLE"):
        await memory.store(ONE, timeout_s=0.2)
    assert len(fake.of_kind("store")) > 1
