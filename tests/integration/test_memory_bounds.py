"""What a client sends, or leaves unread, takes a bounded part of the server's memory, and for as long as it is used."""

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import serving

import attractor
from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_copies_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_copies_pb2 as copies_pb
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.rpc.session import Session
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

ONE = np.full((1, 4, 4), 0.5, np.float32)
CALLS = 20
WAIT_S = 5


async def _talk(
    call: "aio.StreamUnaryCall[copies_pb.ImportRequest, copies_pb.ImportResponse]", request: copies_pb.ImportRequest
) -> None:
    """Sends one message of a stream and reads until its end."""
    await call.write(request)
    await call.done_writing()
    await call


FAILING: dict[str, Callable[[aio.Channel], Awaitable[object]]] = {
    "a memory that is not there": lambda channel: memories_pb2_grpc.MemoriesStub(channel).Get(
        memories_pb2.GetRequest(name="none")
    ),
    "a store of another shape": lambda channel: memory_data_pb2_grpc.MemoryDataStub(channel).Store(
        pb.StoreRequest(memory="a", tensors=[tensor(np.zeros((1, 3), np.float32))])
    ),
    "a store that finds its memory full": lambda channel: memory_data_pb2_grpc.MemoryDataStub(channel).Store(
        pb.StoreRequest(memory="a", tensors=[tensor(ONE)])
    ),
    "an import that begins with its end": lambda channel: _talk(
        memory_copies_pb2_grpc.CopiesStub(channel).Import(),
        copies_pb.ImportRequest(piece=copies_pb.Piece(tail=copies_pb.Tail())),
    ),
}


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is freed but what no reference leads to."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def calls_alive() -> int:
    """Calls that the server in this process still knows."""
    return sum(type(one).__name__ == "_ServicerContext" for one in gc.get_objects())


@pytest.mark.parametrize("case", FAILING)
async def test_a_call_that_failed_is_forgotten_without_the_garbage_collector(channel: aio.Channel, case: str) -> None:
    settings = memories_pb2.MemorySettings(when_full=memories_pb2.WHEN_FULL_REFUSE, page_patterns=1)
    await raw.create(channel, "a", settings=settings)
    await memory_data_pb2_grpc.MemoryDataStub(channel).Store(pb.StoreRequest(memory="a", tensors=[tensor(ONE)]))
    with uncollected():
        before = calls_alive()
        for _ in range(CALLS):
            with pytest.raises(aio.AioRpcError):
                await FAILING[case](channel)
        with suppress(TimeoutError), anyio.fail_after(WAIT_S):
            while calls_alive() > before:  # noqa: ASYNC110  # nobody tells when gRPC lets go
                await anyio.sleep(0.05)
        assert calls_alive() <= before


EMPTY_TENSORS = b"\x12\x00" * 1_000_000
"""Field 2 of a StoreRequest, a message of no bytes, again and again"""


async def test_millions_of_empty_tensors_are_refused_before_they_are_decoded(
    shard: RunningShard, channel: aio.Channel
) -> None:
    store: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/attractor.v1.MemoryData/Store")
    with pytest.raises(aio.AioRpcError) as caught:
        await store(b"\x0a\x01a" + EMPTY_TENSORS)
    assert raw.violation(raw.status_of(caught.value)) == (
        "message",
        "saw more than 16384 fields in 2000003 bytes; expected at most so many",
    )
    assert shard._shard.budget.used_bytes == 0


@pytest.mark.parametrize("method", ["Store", "Session"])
async def test_bytes_that_are_no_message_are_invalid(channel: aio.Channel, method: str) -> None:
    served: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/attractor.v1.MemoryData/{method}")
    call = served()
    with pytest.raises(aio.AioRpcError) as caught:
        await call.write(b"\xff\xff\xff\xff")
        await call.read()
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT


async def test_a_session_keeps_little_of_what_its_client_calls_itself(channel: aio.Channel) -> None:
    hello = pb.Hello(protocol_version=1, client_id="tests", agent="x" * 1_000_000)
    async with raw_session(channel, hello=hello):
        (session,) = (one for one in gc.get_objects() if type(one) is Session)
        assert session._hello.ByteSize() < 1000


async def test_weights_that_a_page_does_not_have_are_refused_as_they_come(spec: ShardSpec, tmp_path: Path) -> None:
    async with (
        serving(replace(spec, store_uri=uri_of(tmp_path / "data"))) as (shard,),
        aio.insecure_channel(shard.info.address) as channel,
    ):
        await raw.create(channel, "a")
        await memory_data_pb2_grpc.MemoryDataStub(channel).Store(pb.StoreRequest(memory="a", tensors=[tensor(ONE)]))
        copies = memory_copies_pb2_grpc.CopiesStub(channel)
        head, page = [one.piece async for one in copies.Export(copies_pb.ExportRequest(name="a"))][:2]
        page.page.weights_bytes = page.page.weights_bytes or shard._shard.models["tiny"].page_bytes
        call = copies.Import()
        await call.write(copies_pb.ImportRequest(name="b", piece=head))
        await call.write(copies_pb.ImportRequest(piece=page))
        await call.write(copies_pb.ImportRequest(piece=copies_pb.Piece(weights=bytes(1 << 20))))
        with pytest.raises(aio.AioRpcError) as caught, anyio.fail_after(WAIT_S):
            await call
        assert raw.violation(raw.status_of(caught.value))[0] == "piece.weights"
        assert shard._shard.budget.used_bytes == 0


async def test_answers_that_nobody_reads_are_bounded_over_all_sessions_and_others_go_on(spec: ShardSpec) -> None:
    limit_bytes = 4 << 20
    async with serving(replace(spec, request_bytes=limit_bytes)) as (shard,), AsyncExitStack() as stack:
        budget = shard._shard.budget
        budget.wait_s, budget.unread_s = 2.0, 0.5
        channel = await stack.enter_async_context(aio.insecure_channel(shard.info.address))
        await raw.create(channel, "a")
        asked = columns([9], [1], tensor(np.repeat(ONE, 128, 0)), rows=128)
        frame = pb.SessionRequest(query=pb.QueryFrame(columns=asked, steps=30, trajectory=True))
        silent = []
        for _ in range(40):  # 128 patterns of 64 bytes with 30 iterates each: 10 MB in all
            session = await stack.enter_async_context(raw_session(channel))
            await session.open("a", 1)
            await session.send(frame)
            silent.append(session)
        assert budget.used_bytes > limit_bytes // 2
        client = await stack.enter_async_context(attractor.connect(shard.info.address, timeout_s=20))
        memory = await client.create_memory("others/b", model="tiny")
        for _ in range(10):
            await memory.store(ONE)
            assert budget.used_bytes < 2 * limit_bytes


async def test_a_call_without_room_is_refused_by_the_name_of_the_setting_and_the_client_comes_back(
    spec: ShardSpec,
) -> None:
    async with (
        serving(replace(spec, request_bytes=1 << 20)) as (shard,),
        aio.insecure_channel(shard.info.address) as channel,
        attractor.connect(shard.info.address, timeout_s=WAIT_S) as client,
    ):
        memory = await client.create_memory("a", model="tiny")
        budget = shard._shard.budget
        budget.wait_s = 0.1
        with budget.open_account() as other:
            await other.take(budget.limit_bytes - budget.used_bytes)
            with pytest.raises(aio.AioRpcError) as caught:
                await memories_pb2_grpc.MemoriesStub(channel).Get(memories_pb2.GetRequest(name="a"))
            status = raw.status_of(caught.value)
            assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
            assert raw.reason(status) == "MEMORY_SHORT"
            assert "`request_memory_mib`" in status.message
            assert any(detail.type_url.endswith("google.rpc.RetryInfo") for detail in status.details)
            with pytest.raises(attractor.TimeoutExceeded):
                await memory.info(timeout_s=0.5)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(memory.info)
                await anyio.sleep(0.3)
                other.give(other.held_bytes)
        assert (await memory.store(ONE)).total == 1
