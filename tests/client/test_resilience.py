"""Faults that repeat, pile up or come at a bad moment: nothing is lost, applied twice, kept for ever or waited for."""

import asyncio
import gc
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import grpc
import numpy as np
import pytest
from grpc import aio
from tests.support.fake_server import QUICK, FakeServer, FakeSession, serving

import attractor
from attractor._session import memory_queues
from attractor._session.router import Router
from attractor._session.sequences import Sequences
from attractor_proto.v1 import memory_data_pb2 as pb

ONE = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
NEVER = attractor.Retry(first_delay_s=3600, limit_delay_s=3600)
"""Whoever waits for a repeat waits for ever."""


@contextmanager
def _soon() -> Iterator[None]:
    with anyio.fail_after(20):
        yield


def _router(client: attractor.AsyncClient) -> Router:
    assert client._connection is not None
    return client._connection._router


async def test_a_server_that_takes_a_session_and_never_welcomes_it_is_tried_again(fake: FakeServer) -> None:
    async def hang_in_second(_: "aio.ServicerContext[object, object]") -> None:
        if len(fake.sessions) == 2:
            await anyio.sleep_forever()

    async def drop_first(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if len(fake.sessions) == 1 and frame.HasField("store"):
            await session.abort()
        yield False

    fake.greet, fake.hook = hang_in_second, drop_first
    with _soon():
        async with attractor.connect(fake.address, connect_timeout_s=0.5, retry=QUICK) as client:
            memory = await client.create_memory("faces", model="tiny")
            assert (await memory.store(ONE)).total == 1
    assert len(fake.sessions) == 3


async def test_an_erase_that_a_lost_stream_left_unanswered_is_sent_again_with_its_number(fake: FakeServer) -> None:
    async def drop_first(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("erase") and len(fake.of_kind("erase")) == 1:
            await fake.answer(session, frame)  # it is applied
            await session.abort()
        yield False

    fake.hook = drop_first
    with _soon():
        async with attractor.connect(fake.address, retry=QUICK) as client:
            memory = await client.create_memory("faces", model="tiny")
            await memory.store(np.stack([ONE, ONE]))
            assert await memory.erase(ONE) == attractor.EraseResult(version=2, total=1)
            assert await memory.store(ONE) == attractor.StoreResult(version=3, total=2)
    assert {tuple(frame.erase.sequences) for frame in fake.of_kind("erase")} == {(2,)}
    assert [list(frame.store.sequences) for frame in fake.of_kind("store")] == [[1], [3]]


async def test_a_request_given_up_does_not_hold_back_those_after_it(fake: FakeServer) -> None:
    async def silent(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("cancel"):
            await session.fail(list(frame.cancel.request_ids), "CANCELLED", "CANCELLED")
        yield frame.HasField("query")

    fake.hook = silent
    with _soon():
        async with attractor.connect(fake.address, retry=NEVER) as client:
            memory = await client.create_memory("faces", model="tiny")
            with pytest.raises(attractor.TimeoutExceeded):
                await memory.query(ONE, timeout_s=0.05)
            await fake.until(lambda: bool(fake.of_kind("cancel")))
            assert (await memory.recognize(ONE)).energy == 0  # comes after the CANCELLED
            assert (await memory.store(ONE)).total == 1


async def test_requests_given_up_together_are_cancelled_together_and_once(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def silent(_: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        yield frame.HasField("query")

    fake.hook = silent
    async with anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(memory.query, ONE)
        await fake.until(lambda: bool(fake.of_kind("query")))
        tasks.cancel_scope.cancel()
    await memory.recognize(ONE)
    await memory.recognize(ONE)
    cancelled = [number for frame in fake.of_kind("cancel") for number in frame.cancel.request_ids]
    sent = [number for frame in fake.of_kind("query") for number in frame.query.columns.request_ids]
    assert sorted(cancelled) == sent
    assert len(fake.of_kind("cancel")) <= 2


async def test_a_handle_that_the_server_does_not_know_is_opened_anew(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def forget_first(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store") and len(fake.of_kind("store")) == 1:
            await session.fail(list(frame.store.columns.request_ids), "FAILED_PRECONDITION", "HANDLE_NOT_OPEN")
            yield True

    fake.hook = forget_first
    assert (await memory.store(ONE)).total == 1
    assert [list(frame.store.sequences) for frame in fake.of_kind("store")] == [[1], [1]]
    assert len(fake.of_kind("open")) == 2


async def test_a_memory_lost_with_its_owner_is_not_found(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    async def lose(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store"):
            first = len(fake.of_kind("store")) == 1
            code, reason = ("UNAVAILABLE", "OWNER_UNREACHABLE") if first else ("NOT_FOUND", "MEMORY_NOT_FOUND")
            await session.fail(list(frame.store.columns.request_ids), code, reason)
            yield True

    fake.hook = lose
    with pytest.raises(attractor.MemoryNotFound):
        await memory.store(ONE)


async def test_memories_out_of_use_are_closed_and_their_numbers_go_on(
    client: attractor.AsyncClient, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_queues, "_OPEN_LIMIT", 4)
    memories = [await client.create_memory(f"m{number}", model="tiny") for number in range(30)]
    for memory in memories:
        await memory.store(ONE)
    assert (await memories[0].store(ONE)).total == 2
    await memories[0].query(ONE)  # whatever was to be closed before it has been
    assert len(fake.sessions[0].handles) <= 5
    assert len(_router(client)._sequences._counters) <= 5
    assert list(fake.of_kind("store")[-1].store.sequences) == [2]


def test_numbers_that_the_server_may_not_know_are_kept() -> None:
    sequences = Sequences()
    assert [sequences.next("a"), sequences.next("a"), sequences.next("b")] == [1, 2, 1]
    sequences.acknowledge("a", 1)
    sequences.release("a")
    assert sequences.next("a") == 3
    sequences.acknowledge("b", 1)
    sequences.release("b")
    sequences.acknowledge("b", 1)  # opened again
    assert sequences.next("b") == 2


async def test_what_is_given_up_while_the_server_is_away_is_not_kept(fake: FakeServer) -> None:
    async def refuse(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("open"):
            await session.fail([frame.open.request_id], "UNAVAILABLE", "OWNER_UNREACHABLE")
        yield frame.HasField("open")

    fake.hook = refuse
    async with attractor.connect(fake.address, retry=NEVER) as client, anyio.create_task_group() as waiting:
        memory = await client.create_memory("faces", model="tiny")
        waiting.start_soon(lambda: memory.query(ONE, timeout_s=math.inf))
        await fake.until(lambda: bool(fake.of_kind("open")))
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(memory.query, ONE)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        queue = _router(client).seed.outbox._queues.get("faces")
        assert queue is not None
        assert len(queue.pending) <= 2
        waiting.cancel_scope.cancel()


async def test_one_memory_has_fewer_stores_under_way_than_the_server_remembers(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    held: list[tuple[FakeSession, pb.SessionRequest]] = []

    async def hold(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store"):
            held.append((session, frame))
            yield True

    fake.hook = hold
    async with anyio.create_task_group() as tasks:
        for _ in range(1500):
            tasks.start_soon(memory.store, ONE)
        await fake.until(lambda: sum(len(frame.store.sequences) for _, frame in held) >= 512)
        await anyio.wait_all_tasks_blocked()
        assert sum(len(frame.store.sequences) for _, frame in held) == 512
        fake.hook = None
        for session, frame in held:
            await fake.answer(session, frame)
    assert fake.memories["faces"].patterns == 1500


async def test_a_session_that_ends_while_idle_does_not_make_the_next_call_wait(fake: FakeServer) -> None:
    with _soon():
        async with attractor.connect(fake.address, retry=NEVER) as client:
            memory = await client.create_memory("faces", model="tiny")
            await fake.sessions[0].drop()
            while _router(client).seed.failure is None:
                await anyio.lowlevel.checkpoint()
            assert (await memory.store(ONE)).total == 1
    assert len(fake.sessions) == 2


async def test_a_draining_owner_is_replaced_by_the_first_shard(fake: FakeServer) -> None:
    async with serving(FakeServer()) as owner, attractor.connect(fake.address, timeout_s=20, retry=QUICK) as client:
        memory = await client.create_memory("faces", model="tiny")
        owner.memories = fake.memories
        fake.routes["faces"] = owner.address
        assert (await memory.store(ONE)).total == 1
        assert list(_router(client)._links) == [fake.address, owner.address]
        await owner.sessions[0].send(drain=pb.Drain())
        assert (await memory.store(ONE)).total == 2
        assert (await memory.store(ONE)).total == 3
        assert len(owner.sessions) == 1
        assert len(owner.of_kind("store")) + len(fake.of_kind("store")) == 3
        assert list(_router(client)._links) == [fake.address]


async def test_an_owner_lost_in_mid_work_does_not_disturb_the_order_within_a_memory(fake: FakeServer) -> None:
    async def drop_third(session: FakeSession, _: pb.SessionRequest) -> AsyncIterator[bool]:
        if len(owner.of_kind("store") + owner.of_kind("query")) >= 3:
            await session.abort()
        yield False

    seen: dict[int, float] = {}

    async def query(place: int) -> None:
        seen[place] = float((await memory.query(ONE)).energy_before)

    async with serving(FakeServer()) as owner, attractor.connect(fake.address, timeout_s=20, retry=QUICK) as client:
        memory = await client.create_memory("faces", model="tiny")
        owner.memories, owner.hook = fake.memories, drop_third
        fake.routes["faces"] = owner.address
        async with anyio.create_task_group() as tasks:
            for place in range(10):
                tasks.start_soon(memory.store, ONE)
                tasks.start_soon(query, place)
    assert seen == {place: place + 1 for place in range(10)}
    assert fake.of_kind("store")


async def test_connections_that_end_by_age_lose_nothing() -> None:
    options = [("grpc.max_connection_age_ms", 50), ("grpc.max_connection_age_grace_ms", 20)]
    with _soon():
        async with serving(FakeServer(), options=options) as fake:
            fake.add("faces")
            async with attractor.connect(fake.address, timeout_s=20, retry=QUICK) as client:
                memory, stores = client.memory("faces"), 0
                while len(fake.sessions) < 6:
                    async with anyio.create_task_group() as tasks:
                        for _ in range(20):
                            tasks.start_soon(memory.store, ONE)
                    stores += 20
                    assert fake.memories["faces"].patterns == stores


async def test_a_server_that_falls_again_and_again_applies_each_store_once() -> None:
    """Half of the time before, half of the time after it applied what it was sent."""

    async def fall(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store") and len(session.frames) > 3:
            if len(fake.sessions) % 2:
                await fake.answer(session, frame)
            await session.abort()
        yield False

    async with serving(FakeServer()) as fake, attractor.connect(fake.address, timeout_s=20, retry=QUICK) as client:
        fake.hook = fall
        memory = await client.create_memory("faces", model="tiny")
        async with memory.stream(in_flight_patterns=4) as stream:
            totals = [result.total async for result in stream.store([ONE] * 100)]
    assert sorted(totals) == list(range(1, 101))
    assert len(fake.sessions) > 5


async def test_one_timeout_counts_for_all_that_a_call_asks(fake: FakeServer) -> None:
    fake.add("faces")
    fake.unary_failures = [grpc.StatusCode.UNAVAILABLE]
    retry = attractor.Retry(first_delay_s=0.2)
    async with attractor.connect(fake.address, retry=retry) as client:
        await client.memory("faces").query(ONE, timeout_s=5)
    _, again = fake.time_left["Get"]
    (model,) = fake.time_left["GetModel"]
    assert model <= again + 0.02  # gRPC sends hundredths


async def test_closing_does_not_wait_for_calls_that_wait_to_be_repeated(fake: FakeServer) -> None:
    waiting = anyio.Event()

    class Never(attractor.Retry):
        def delay_s(self, attempt: int) -> float:
            waiting.set()
            return super().delay_s(attempt)

    async def ask(client: attractor.AsyncClient) -> None:
        with pytest.raises(attractor.Closed):
            await client.get_memory("faces", timeout_s=math.inf)

    fake.unary_failures = [grpc.StatusCode.UNAVAILABLE]
    retry = Never(first_delay_s=3600, limit_delay_s=3600)
    with _soon():
        async with anyio.create_task_group() as tasks, attractor.connect(fake.address, retry=retry) as client:
            tasks.start_soon(ask, client)
            await waiting.wait()


async def test_a_failure_that_nobody_awaits_is_not_complained_of(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def refuse(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("query"):
            await session.fail(list(frame.query.columns.request_ids), "RESOURCE_EXHAUSTED", "QUEUE_FULL")
            yield True

    fake.hook = refuse
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with memory.stream() as stream:
        answers = stream.query([ONE, ONE])
        with pytest.raises(attractor.Exhausted):
            await anext(answers)
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("around_client", [True, False])
async def test_an_asyncio_timeout_holds_around_the_client_and_around_a_call(
    fake: FakeServer, around_client: bool
) -> None:
    async def silent(_: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        yield frame.HasField("query")

    fake.hook = silent
    async with asyncio.timeout(20), attractor.connect(fake.address) as client:
        memory = await client.create_memory("faces", model="tiny")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                if around_client:
                    async with attractor.connect(fake.address):
                        await anyio.sleep_forever()
                await memory.query(ONE)
        assert (await memory.store(ONE)).total == 1
