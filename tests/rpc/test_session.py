"""What a session promises: order, repeats, cancelling, deadlines, drain."""

import subprocess
import sys
import textwrap

import anyio
import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor
from tests.support.session_frames import ONE, Gate, query, store, waiting

from attractor_proto.v1 import memories_pb2, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard


async def test_answers_of_a_memory_come_in_order_and_a_query_sees_the_stores_before_it(channel: aio.Channel) -> None:
    stream = memories_pb2.MemorySettings(write=memories_pb2.WRITE_MODE_STREAM, page_patterns=16)
    await raw.create(channel, "a", settings=stream)
    async with raw_session(channel) as session:
        await session.open("a", 1)
        frames = [store(n, 0) if n % 3 == 0 else query(n) for n in range(30)]
        for frame in frames:
            await session.send(frame)
        answered: list[int] = []
        energies: list[float] = []
        while len(answered) < len(frames):
            answer = await session.receive()
            answered += getattr(answer, answer.WhichOneof("frame") or "").request_ids
            energies += answer.recalled.scores.delta_energy
        assert answered == list(range(30))
        groups = np.array(energies).reshape(10, 2)
        assert (groups[:, 0] == groups[:, 1]).all()  # between two stores nothing changes
        assert len(np.unique(groups[:, 0])) == 10  # and each store is seen


async def test_a_repeated_number_gets_the_first_answer_and_applies_nothing(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        assert [(await session.ask(store(n, n))).stored.versions[0] for n in (1, 2)] == [1, 2]
        assert (await session.ask(store(3, 1))).stored.versions == [1]
    async with raw_session(channel) as session:
        assert (await session.open("a", 1)).opened.last_sequence == 2
        assert (await session.ask(store(1, 2))).stored.versions == [2]
        assert (await session.ask(store(2, 0))).stored.versions == [3]
        assert (await session.ask(store(3, 0))).stored.versions == [4]
    unary = memory_data_pb2_grpc.MemoryDataStub(channel)
    request = pb.StoreRequest(memory="a", tensors=[tensor(ONE)], client_id="tests", sequence=2)
    assert (await unary.Store(request)).version == 2
    request.client_id = "another"
    assert (await unary.Store(request)).version == 5
    assert await raw.state(channel, "a") == (5, 5)


async def test_a_repeat_waits_for_the_first_where_that_is_under_way(channel: aio.Channel, gate: Gate) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as first, raw_session(channel) as second:
        await first.open("a", 1)
        await second.open("a", 1)
        await first.send(store(1, 1))
        await gate.until_reached()
        first.call.cancel()
        await second.send(store(9, 1))
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
        answer = await second.receive()
        assert list(zip(answer.stored.request_ids, answer.stored.versions, strict=True)) == [(9, 1)]
    assert await raw.state(channel, "a") == (1, 1)


async def test_what_has_not_started_can_be_cancelled_and_what_has_is_answered(channel: aio.Channel, gate: Gate) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        await session.send(store(1, 1))
        await gate.until_reached()
        await session.send(store(2, 2))
        await session.send(pb.SessionRequest(cancel=pb.Cancel(request_ids=[1, 2, 77])))
        (status,) = raw.failures(await session.receive()).values()
        assert (status.code, raw.reason(status)) == (StatusCode.CANCELLED.value[0], "CANCELLED")
        gate.opened.set()
        assert (await session.receive()).stored.request_ids == [1]
        assert (await session.ask(store(3, 2))).stored.versions == [2]  # a number that failed is free again


async def test_a_request_whose_time_passes_in_the_queue_is_not_computed(channel: aio.Channel, gate: Gate) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        await session.send(store(1, 1))
        await gate.until_reached()
        await session.send(query(2, deadline_ms=1))
        late = columns([3], [1], tensor(ONE))
        late.deadline_ms.append(1)
        await session.send(pb.SessionRequest(store=pb.StoreFrame(columns=late, sequences=[2])))
        await session.send(query(4, deadline_ms=60_000))
        await anyio.sleep(0.05)  # the deadlines are 1 ms
        gate.opened.set()
        answers = [await session.receive() for _ in range(3)]
        told = {
            key: value
            for answer in answers
            if answer.HasField("failures")
            for key, value in raw.failures(answer).items()
        }
        assert {raw.reason(status) for status in told.values()} == {"EXPIRED"}
        assert set(told) == {2, 3}
    assert await raw.state(channel, "a") == (1, 1)


async def test_a_unary_call_whose_deadline_has_passed_does_nothing(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    request = pb.StoreRequest(memory="a", tensors=[tensor(ONE)])
    with pytest.raises(aio.AioRpcError) as caught:
        await memory_data_pb2_grpc.MemoryDataStub(channel).Store(request, timeout=-1)
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    assert await raw.state(channel, "a") == (0, 0)


async def test_of_two_streams_one_is_cancelled_and_the_other_never_notices(
    shard: RunningShard, channel: aio.Channel, gate: Gate
) -> None:
    await raw.create(channel, "a")
    await raw.create(channel, "b")
    async with raw_session(channel) as one, raw_session(channel) as other:
        await one.open("a", 1)
        await other.open("b", 1)
        await other.send(store(1, 0))
        await gate.until_reached()
        for n in range(2, 6):
            await one.send(store(n, 0))
            await other.send(store(n, 0))
        await waiting(shard, "a", 4)
        one.call.cancel()
        await waiting(shard, "a", 0)
        gate.opened.set()
        versions: list[int] = []
        while len(versions) < 5:
            versions += (await other.receive()).stored.versions
        assert versions == [1, 2, 3, 4, 5]
    assert await raw.state(channel, "a") == (0, 0)


async def test_a_client_killed_in_mid_stream_leaves_the_server_as_it_was(
    shard: RunningShard, channel: aio.Channel
) -> None:
    await raw.create(channel, "a")
    script = """
        import asyncio, numpy as np, attractor
        async def main():
            async with attractor.connect("ADDRESS") as client:
                memory = client.memory("a")
                async def store():
                    while True:
                        await memory.store(np.full((4, 4), 0.5, np.float32))
                        print("stored", flush=True)
                await asyncio.gather(*(store() for _ in range(32)))
        asyncio.run(main())
    """
    code = textwrap.dedent(script).replace("ADDRESS", shard.info.address)
    async with await anyio.open_process([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        with anyio.fail_after(60):
            await process.stdout.receive()
        process.kill()
    async with raw_session(channel) as session:
        await session.open("a", 1)
        version, patterns = await raw.state(channel, "a")
        assert version == patterns
        assert (await session.ask(store(1, 0))).stored.versions[0] > version - 1
    assert shard._shard.batcher.idle


async def test_the_end_of_the_clients_stream_is_no_commit_but_what_was_sent_is_answered(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        for n in (1, 2, 3):
            await session.send(store(n, n))
        await session.call.done_writing()
        versions: list[int] = []
        with anyio.fail_after(20):
            while isinstance(answer := await session.call.read(), pb.SessionResponse):
                versions += answer.stored.versions
        assert versions == [1, 2, 3]
        assert await session.call.code() is StatusCode.OK


async def test_a_draining_shard_says_so_finishes_and_refuses_new_unary_calls(
    shard: RunningShard, channel: aio.Channel, gate: Gate
) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session, anyio.create_task_group() as tasks:
        await session.open("a", 1)
        await session.send(store(1, 1))
        await gate.until_reached()
        tasks.start_soon(shard.drain, 20.0)
        assert (await session.receive()).HasField("drain")
        with pytest.raises(aio.AioRpcError) as caught:
            await memory_data_pb2_grpc.MemoryDataStub(channel).Query(pb.QueryRequest(memory="a", tensors=[tensor(ONE)]))
        assert raw.reason(raw.status_of(caught.value)) == "DRAINING"
        gate.opened.set()
        assert (await session.receive()).stored.versions == [1]
        await session.call.done_writing()
