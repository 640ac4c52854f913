"""A caller that goes away in the middle leaves nothing half done, and spoils nothing for a later one."""

import anyio
import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor
from tests.support.session_frames import Gate
from tests.support.shards import THERE

from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.errors import Cancelled
from attractor_server.scheduling.batcher import Batcher
from attractor_server.scheduling.jobs import Operation

ONE = np.full((1, 4, 4), 0.5, np.float32)


async def until_waiting(batcher: Batcher, *operations: Operation) -> None:
    """Returns when these jobs, and no others, wait for the engine."""
    with anyio.fail_after(raw.WAIT_S):
        while [job.operation for job in batcher.waiting] != list(operations):
            await batcher.changes.wait()


async def until_gone(call: "aio.UnaryUnaryCall[pb.StoreRequest, pb.StoreResponse]") -> None:
    call.cancel()
    with anyio.fail_after(raw.WAIT_S):
        assert await call.code() is StatusCode.CANCELLED


async def test_a_repeat_is_answered_though_the_first_call_was_given_up(
    shard: RunningShard, channel: aio.Channel, gate: Gate
) -> None:
    await raw.create(channel, "a")
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    batcher = shard._shard.batcher
    before = stub.Store(pb.StoreRequest(memory="a", tensors=[tensor(ONE)]))
    await gate.until_reached()
    counted = pb.StoreRequest(memory="a", tensors=[tensor(ONE)], client_id="c", sequence=1)
    first = stub.Store(counted)
    await until_waiting(batcher, Operation.STORE)
    async with raw_session(channel, hello=pb.Hello(protocol_version=1, client_id="c")) as session:
        await session.open("a", 1)
        again = pb.StoreFrame(columns=columns([9], [1], tensor(ONE)), sequences=[1])
        await session.send(pb.SessionRequest(store=again))
        await session.open("a", 2)  # answered after the frame before was taken in
        await until_gone(first)
        await raw.state(channel, "a")  # the shard has seen the end of the call by now
        gate.opened.set()
        answer = await session.receive()
        assert list(zip(answer.stored.request_ids, answer.stored.versions, strict=True)) == [(9, 2)]
    assert (await before).version == 1
    assert (await stub.Store(counted)).version == 2


async def test_an_uncounted_store_that_is_given_up_in_the_queue_is_not_applied(
    shard: RunningShard, channel: aio.Channel, gate: Gate
) -> None:
    await raw.create(channel, "a")
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    request = pb.StoreRequest(memory="a", tensors=[tensor(ONE)])
    before = stub.Store(request)
    await gate.until_reached()
    given_up = stub.Store(request)
    await until_waiting(shard._shard.batcher, Operation.STORE)
    (job,) = shard._shard.batcher.waiting
    await until_gone(given_up)
    with anyio.fail_after(raw.WAIT_S), pytest.raises(Cancelled):
        await job.future
    gate.opened.set()
    assert (await before).version == 1
    assert (await stub.Store(request)).version == 2


async def test_a_deletion_that_was_begun_frees_its_place_though_its_caller_went_away(
    shard: RunningShard, channel: aio.Channel, gate: Gate
) -> None:
    gate.opened.set()
    stub, batcher = memory_data_pb2_grpc.MemoryDataStub(channel), shard._shard.batcher
    request = pb.StoreRequest(memory="a", tensors=[tensor(ONE)])
    await raw.create(channel, "a")
    await stub.Store(request)
    record = await shard._shard.memories.get("a")
    assert record.pages
    gate.opened.clear()
    gate.reached.clear()
    held = stub.Store(request)
    await gate.until_reached()
    batcher.waiting_limit = 1
    filling = stub.Store(request)
    await until_waiting(batcher, Operation.STORE)
    deletion = memories_pb2_grpc.MemoriesStub(channel).Delete(memories_pb2.DeleteRequest(name="a"))
    await until_waiting(batcher, Operation.STORE, Operation.DELETE)
    deletion.cancel()
    assert await deletion.code() is StatusCode.CANCELLED
    gate.opened.set()
    with anyio.fail_after(raw.WAIT_S):
        await batcher.wait_until_idle()
    assert not record.pages
    for before_it in (held, filling):
        with pytest.raises(aio.AioRpcError) as caught:
            await before_it
        assert raw.reason(raw.status_of(caught.value)) == "MEMORY_NOT_FOUND"


async def test_an_id_that_another_shard_has_not_answered_is_not_free(
    pair_of_shards: list[RunningShard], gate: Gate
) -> None:
    async with aio.insecure_channel(pair_of_shards[0].info.address) as channel, raw_session(channel) as session:
        await raw.create(channel, THERE)
        await session.open(THERE, 1)
        query = pb.SessionRequest(query=pb.QueryFrame(columns=columns([7], [1], tensor(ONE))))
        await session.send(query)
        await gate.until_reached()
        await session.send(query)
        where, said = raw.violation(raw.status_of(await session.ended()))
        gate.opened.set()
        assert where == "query.columns.request_ids"
        assert said.startswith("saw 7, which is not answered yet")
