"""Limits of connections and messages, and what happens at them."""

from dataclasses import replace

import anyio
import grpc
import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import serving

import attractor
from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.shard.spec import ShardSpec, Transport

ONE = np.full((1, 4, 4), 0.5, np.float32)
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
MIB = 1 << 20
OFTEN = [
    ("grpc.keepalive_time_ms", 100),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


async def test_a_message_over_the_limit_is_refused_and_the_connection_goes_on(shard: RunningShard) -> None:
    async with aio.insecure_channel(shard.info.address, options=UNLIMITED) as channel:
        await raw.create(channel, "a")
        huge = pb.Tensor(dtype=pb.DTYPE_UINT8, shape=(MIB + 1, 4, 4), data=bytes(16 * MIB + 16))
        stub = memory_data_pb2_grpc.MemoryDataStub(channel)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.Store(pb.StoreRequest(memory="a", tensors=[huge]))
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        async with raw_session(channel) as session:
            await session.open("a", 1)
            frame = pb.StoreFrame(columns=columns([1], [1], huge, rows=MIB + 1), sequences=[0])
            await session.send(pb.SessionRequest(store=frame))
            assert (await session.ended()).code() is StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.Store(pb.StoreRequest(memory="a", tensors=[tensor(ONE)]))).version == 1


async def test_more_patterns_than_a_frame_may_hold_are_refused(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    many = np.full((1025, 4, 4), 128, np.uint8)
    with pytest.raises(aio.AioRpcError) as caught:
        await memory_data_pb2_grpc.MemoryDataStub(channel).Store(pb.StoreRequest(memory="a", tensors=[tensor(many)]))
    assert raw.violation(raw.status_of(caught.value)) == ("tensors[0].shape", "saw 1025 patterns; expected 1 to 1024")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        frame = pb.StoreFrame(columns=columns([1], [1], tensor(many), rows=1025), sequences=[1])
        (status,) = raw.failures(await session.ask(pb.SessionRequest(store=frame))).values()
        assert raw.violation(status) == ("store.columns.patterns", "saw 1025 patterns; expected at most 1024")
    assert await raw.state(channel, "a") == (0, 0)


async def test_a_client_outlives_the_age_of_its_connections_and_stores_everything_once(spec: ShardSpec) -> None:
    brief = replace(spec, transport=Transport(age_s=0.5, age_grace_s=0.2))
    async with serving(brief) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        memory = await client.create_memory("a", model="tiny")
        versions = []
        end_s = anyio.current_time() + 3
        while anyio.current_time() < end_s:
            versions.append((await memory.store(ONE)).version)
        assert versions == list(range(1, len(versions) + 1))
        assert (await memory.info()).patterns == len(versions)


async def test_a_quiet_client_that_asks_whether_the_server_is_there_is_not_sent_away(spec: ShardSpec) -> None:
    patient = replace(spec, transport=Transport(ping_interval_s=0.05))
    async with serving(patient) as (shard,), aio.insecure_channel(shard.info.address, options=OFTEN) as channel:
        await raw.create(channel, "a")
        async with raw_session(channel) as session:
            await anyio.sleep(1.5)  # as long as fifteen questions take
            assert (await session.open("a", 1)).HasField("opened")


async def test_a_client_that_never_reads_is_held_back_and_others_go_on(
    shard: RunningShard, channel: aio.Channel
) -> None:
    await raw.create(channel, "a")
    await raw.create(channel, "b")
    many = np.full((256, 4, 4), 0.5, np.float32)
    async with aio.insecure_channel(shard.info.address) as deaf, raw_session(deaf) as silent:
        await silent.open("a", 1)
        sent = 0
        with anyio.move_on_after(3):
            while sent < 10_000:
                frame = pb.QueryFrame(columns=columns([sent], [1], tensor(many), rows=256), steps=8, trajectory=True)
                await silent.call.write(pb.SessionRequest(query=frame))
                sent += 1
        assert sent < 10_000
        async with raw_session(channel) as session:
            await session.open("b", 1)
            query = pb.QueryFrame(columns=columns([1], [1], tensor(ONE)))
            assert (await session.ask(pb.SessionRequest(query=query))).HasField("recalled")
        assert shard._shard.batcher.waiting_weight <= shard._shard.limits.session_patterns


async def test_a_unary_call_over_the_bound_is_refused_where_a_session_waits(spec: ShardSpec) -> None:
    async with serving(replace(spec, waiting_patterns=64)) as (shard,):
        async with aio.insecure_channel(shard.info.address) as channel:
            await raw.create(channel, "a")
            stub = memory_data_pb2_grpc.MemoryDataStub(channel)
            request = pb.StoreRequest(memory="a", tensors=[tensor(np.full((32, 4, 4), 0.5, np.float32))])
            codes: list[StatusCode] = []
            reasons: set[str] = set()

            async def call() -> None:
                try:
                    await stub.Store(request)
                    codes.append(StatusCode.OK)
                except aio.AioRpcError as error:
                    reasons.add(raw.reason(raw.status_of(error)))
                    codes.append(error.code())

            async with anyio.create_task_group() as tasks:
                for _ in range(64):
                    tasks.start_soon(call)
            assert set(codes) == {StatusCode.OK, StatusCode.RESOURCE_EXHAUSTED}
            assert reasons == {"QUEUE_FULL"}
            assert await raw.state(channel, "a") == (codes.count(StatusCode.OK), 32 * codes.count(StatusCode.OK))
        async with attractor.connect(shard.info.address, timeout_s=20) as client, anyio.create_task_group() as tasks:
            memory = await client.create_memory("b", model="tiny")
            for _ in range(64):
                tasks.start_soon(memory.store, np.full((32, 4, 4), 0.5, np.float32))


async def test_a_client_that_asks_too_often_whether_the_server_is_there_is_sent_away(spec: ShardSpec) -> None:
    strict = replace(spec, transport=Transport(ping_interval_s=60))
    async with serving(strict) as (shard,), aio.insecure_channel(shard.info.address, options=OFTEN) as channel:
        async with raw_session(channel) as session:
            error = await session.ended()
        assert error.code() is StatusCode.UNAVAILABLE
        assert error.details() == "Too many pings"


async def test_a_connection_without_calls_is_closed_and_opened_anew_when_there_is_one(spec: ShardSpec) -> None:
    brief = replace(spec, transport=Transport(idle_s=0.3))
    async with serving(brief) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        state = channel.get_state()
        with anyio.fail_after(20):
            while state is grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(state)
                state = channel.get_state()
        assert await raw.state(channel, "a") == (0, 0)


async def test_on_one_connection_there_are_only_so_many_streams_at_a_time(spec: ShardSpec) -> None:
    narrow = replace(spec, transport=Transport(concurrent_streams=2))
    async with (
        serving(narrow) as (shard,),
        aio.insecure_channel(shard.info.address) as channel,
        raw_session(channel) as first,
        raw_session(channel),
    ):
        stub = memories_pb2_grpc.MemoriesStub(channel)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.List(memories_pb2.ListRequest(), timeout=0.5)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        await first.call.done_writing()
        with anyio.fail_after(20):
            await first.call.code()
        await stub.List(memories_pb2.ListRequest(), timeout=20)
