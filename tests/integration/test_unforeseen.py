"""What one request is, or meets, that nobody foresaw, is that request's failure alone."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import anyio
import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import serving

import attractor
from attractor_proto.names import slot_of
from attractor_proto.v1 import memories_pb2, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.fields import Layout
from attractor_server.memories.outcomes import Recalled
from attractor_server.rpc.operations import BY_OUTCOME
from attractor_server.rpc.requests import JobFactory, RequestFrame
from attractor_server.shard.spec import ShardSpec

ONE = np.full((1, 4, 4), 0.5, np.float32)
BAD_JSON = {
    "nested beyond the stack": b"[" * 2000 + b"]" * 2000,
    "nested beyond the bound": b"[" * 901 + b"]" * 901,
    "an unclosed one": b"[" * 100_000,
    "a number that is none": b"[NaN]",
    "infinity": b'{"a":-Infinity}',
    "an integer too long": b"1" * 5000,
    "UTF-16": json.dumps("héllo").encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf1",
    "half a surrogate pair": b'"\\ud800"',
    "half a pair in bytes": b'"\xed\xa0\x80"',
}
GOOD_JSON = (b"[" * 900 + b"]" * 900, b'"' + b"[" * 2000 + b'"', b'"\\ud83d\\ude00"', b"1e400", b"{}" + b" " * 9)


async def test_json_that_is_none_fails_its_own_request_and_the_rest_goes_on(on_disk: ShardSpec) -> None:
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        async with raw_session(channel) as session:
            await session.open("a", 1)
            for number, payload in enumerate((*BAD_JSON.values(), *GOOD_JSON), 10):
                store = pb.StoreFrame(columns=columns([number], [1], tensor(ONE)), sequences=[0])
                store.items.append(memories_pb2.Item(payload=payload, json=True))
                answer = await session.ask(pb.SessionRequest(store=store))
                if payload in GOOD_JSON:
                    assert answer.HasField("stored"), (payload[:20], answer)
                    continue
                field, words = raw.violation(raw.failures(answer)[number])
                assert field == "store.items[0].payload"
                assert words.startswith("saw ")
        assert await raw.state(channel, "a") == (len(GOOD_JSON), len(GOOD_JSON))


async def test_what_json_cannot_say_is_refused_by_the_sdk_and_the_neighbours_are_answered(on_disk: ShardSpec) -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    async with serving(on_disk) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        memory = await client.create_memory("a", model="tiny")
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(memory.store, ONE[0])
            with pytest.raises(attractor.InvalidRequest):
                await memory.store(ONE[0], payloads=nested)
        assert (await memory.info()).patterns == 4


async def test_an_unforeseen_error_fails_one_request_of_a_frame_with_one_line(
    channel: aio.Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = JobFactory.__call__

    def failing(self: JobFactory, asked: object) -> object:
        if asked.place == 1:  # type: ignore[attr-defined]
            raise KeyError("nobody foresaw this")
        return made(self, asked)  # type: ignore[arg-type]

    monkeypatch.setattr(JobFactory, "__call__", failing)
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        frame = pb.QueryFrame(columns=columns([5, 6, 7], [1, 1, 1], tensor(np.repeat(ONE, 3, 0))))
        received = [await session.ask(pb.SessionRequest(query=frame)), await session.receive()]
    failed = next(one for one in received if one.HasField("failures"))
    assert list(raw.failures(failed)) == [6]
    assert raw.reason(raw.failures(failed)[6]) == "INTERNAL"
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(lines) == 1
    assert "nobody foresaw this" in lines[0]
    assert "\n" not in lines[0]


async def test_an_answer_that_cannot_be_told_fails_one_request_and_the_session_goes_on(
    channel: aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = BY_OUTCOME[Recalled]

    def failing(ids: Sequence[int], layout: Layout | None, chunk: Sequence[Recalled]) -> Iterator[pb.SessionResponse]:
        if 6 in ids:
            raise KeyError("nobody foresaw this")
        return query.encode(ids, layout, chunk)

    monkeypatch.setitem(BY_OUTCOME, Recalled, replace(query, encode=failing))
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        frame = pb.QueryFrame(columns=columns([5, 6, 7], [1, 1, 1], tensor(np.repeat(ONE, 3, 0))))
        received = [await session.ask(pb.SessionRequest(query=frame)), await session.receive(), await session.receive()]
        (failed,) = [one for one in received if one.HasField("failures")]
        assert {number: raw.reason(one) for number, one in raw.failures(failed).items()} == {6: "INTERNAL"}
        assert [list(one.recalled.request_ids) for one in received if one.HasField("recalled")] == [[5], [7]]


async def test_a_part_for_another_shard_that_cannot_be_made_fails_alone_and_the_session_goes_on(
    pair_of_shards: list[RunningShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: RequestFrame, rows: object, chosen: object) -> pb.SessionRequest:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(RequestFrame, "select", failing)
    here, there = (next(name for n in range(99) if slot_of(name := f"m{n}") % 2 == shard) for shard in (0, 1))
    async with aio.insecure_channel(pair_of_shards[0].info.address) as channel:
        for name in (here, there):
            await raw.create(channel, name)
        async with raw_session(channel) as session:
            for handle, name in enumerate((here, there), 1):
                await session.open(name, handle)
            frame = pb.QueryFrame(columns=columns([5, 6], [1, 2], tensor(np.repeat(ONE, 2, 0))))
            received = [await session.ask(pb.SessionRequest(query=frame)), await session.receive()]
    (failed,) = [one for one in received if one.HasField("failures")]
    assert {number: raw.reason(one) for number, one in raw.failures(failed).items()} == {6: "INTERNAL"}
    assert [list(one.recalled.request_ids) for one in received if one.HasField("recalled")] == [[5]]


async def test_bytes_that_are_no_message_are_an_invalid_request(
    channel: aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("Memories/Create", "MemoryData/Query"):
        plain: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/attractor.v1.{name}")
        with pytest.raises(aio.AioRpcError) as caught:
            await plain(b"\xff\xff\xff")
        assert caught.value.code() is StatusCode.INVALID_ARGUMENT
        assert raw.violation(raw.status_of(caught.value))[0] == "message"
    for name in ("MemoryData/Session", "Copies/Import"):
        streamed: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/attractor.v1.{name}")
        call = streamed(iter([b"\xff\xff\xff"]))
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    await raw.create(channel, "a")
    await memory_data_pb2_grpc.MemoryDataStub(channel).Query(pb.QueryRequest(memory="a", tensors=[tensor(ONE)]))
