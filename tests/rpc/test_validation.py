"""What cannot be meant is refused by name, and nothing of it is done."""

import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor

from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb

ONE = np.full((1, 4, 4), 0.5, np.float32)
TWO = np.full((2, 4, 4), 0.5, np.float32)
NAN = np.full((1, 4, 4), np.nan, np.float32)
FLOAT32 = pb.DTYPE_FLOAT32
DATA = ONE.tobytes()
SHAPE = ONE.shape

BAD_TENSORS = {
    "wrong field": (tensor(ONE, field="picture"), "[0].field", "saw 'picture'; expected one of ['image']"),
    "unknown dtype": (pb.Tensor(shape=SHAPE, data=DATA), "[0].dtype", "saw 0; expected one of ['DTYPE_FLOAT32'"),
    "wrong shape": (tensor(ONE.reshape(1, 16)), "[0].shape", "saw (1, 16); expected (1, 4, 4) for 'image'"),
    "short data": (pb.Tensor(dtype=FLOAT32, shape=SHAPE, data=DATA[:-1]), "[0].data", "saw 63 bytes; expected 64"),
    "long data": (pb.Tensor(dtype=FLOAT32, shape=SHAPE, data=DATA * 2), "[0].data", "saw 128 bytes; expected 64"),
    "NaN": (tensor(NAN), "[image]", "saw nan in pattern 0, entry 0; expected finite numbers"),
    "infinity": (tensor(np.full_like(ONE, np.inf)), "[image]", "saw inf in pattern 0"),
    "out of range": (tensor(ONE * 512), "[image]", "saw values from 256 to 256; expected -4 to 5"),
    "short mask": (
        pb.Tensor(dtype=FLOAT32, shape=SHAPE, data=DATA, known=b"\1"),
        "[0].known",
        "saw 1 bytes; expected 2, a bit for each of 16 entries",
    ),
}
BAD_NAMES = {
    "": "saw ''",
    "a b": "saw 'a b'",
    "a//b": "saw 'a//b'",
    "/a": "saw '/a'",
    "ä": "saw 'ä'",
    "n" * 257: "(257 characters)",
}


@pytest.mark.parametrize("case", BAD_TENSORS)
async def test_a_tensor_that_cannot_be_meant_is_refused_and_nothing_is_stored(channel: aio.Channel, case: str) -> None:
    bad, field, seen = BAD_TENSORS[case]
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        frame = pb.StoreFrame(columns=columns([7], [1], bad), sequences=[1])
        (status,) = raw.failures(await session.ask(pb.SessionRequest(store=frame))).values()
        where, said = raw.violation(status)
        assert (raw.reason(status), where) == ("INVALID_REQUEST", f"store.columns.tensors{field}")
        assert seen in said
        assert await raw.state(channel, "a") == (0, 0)
        frame = pb.StoreFrame(columns=columns([8], [1], tensor(ONE)), sequences=[1])
        assert (await session.ask(pb.SessionRequest(store=frame))).stored.versions == [1]


@pytest.mark.parametrize("case", BAD_TENSORS)
async def test_a_unary_call_is_refused_the_same_way(channel: aio.Channel, case: str) -> None:
    bad, field, seen = BAD_TENSORS[case]
    await raw.create(channel, "a")
    with pytest.raises(aio.AioRpcError) as caught:
        await memory_data_pb2_grpc.MemoryDataStub(channel).Store(pb.StoreRequest(memory="a", tensors=[bad]))
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    where, said = raw.violation(raw.status_of(caught.value))
    assert where == f"tensors{field}"
    assert seen in said
    assert await raw.state(channel, "a") == (0, 0)


async def test_a_bad_pattern_fails_its_own_request_alone(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    await raw.create(channel, "b")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        await session.open("b", 2)
        both = tensor(np.concatenate([NAN, ONE]))
        frame = pb.StoreFrame(columns=columns([7, 8], [1, 2], both), sequences=[0, 0])
        answers = [await session.ask(pb.SessionRequest(store=frame)), await session.receive()]
        assert {answer.WhichOneof("frame") for answer in answers} == {"failures", "stored"}
        assert await raw.state(channel, "a") == (0, 0)
        assert await raw.state(channel, "b") == (1, 1)


async def test_fields_must_be_there_once_each(channel: aio.Channel) -> None:
    await raw.create(channel, "p", "pair")
    key, value = np.zeros((1, 8), np.float32), np.zeros((1, 6), np.float32)
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    for tensors, said in (
        ([tensor(key, field="key")], "saw no tensor for ['value']"),
        ([tensor(key, field="key")] * 2, "saw 'key' a second time"),
        ([tensor(key), tensor(value, field="value")], "saw ''; expected one of ['key', 'value']"),
        ([], "saw no tensor for ['key', 'value']"),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.Store(pb.StoreRequest(memory="p", tensors=tensors))
        assert said in raw.violation(raw.status_of(caught.value))[1]
    assert await raw.state(channel, "p") == (0, 0)


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name)[:12])
async def test_no_memory_can_have_such_a_name(channel: aio.Channel, name: str) -> None:
    memories = memories_pb2_grpc.MemoriesStub(channel)
    data = memory_data_pb2_grpc.MemoryDataStub(channel)
    for call, field in (
        (memories.Create(memories_pb2.CreateRequest(name=name, model="tiny")), "name"),
        (memories.Get(memories_pb2.GetRequest(name=name)), "name"),
        (memories.Delete(memories_pb2.DeleteRequest(name=name)), "name"),
        (data.Query(pb.QueryRequest(memory=name, tensors=[tensor(ONE)])), "memory"),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        where, said = raw.violation(raw.status_of(caught.value))
        assert where == field
        assert BAD_NAMES[name] in said
        assert "expected 1 to 256 characters" in said
    async with raw_session(channel) as session:
        (status,) = raw.failures(await session.open(name, 1)).values()
        assert raw.violation(status)[0] == "open.memory"


async def test_unknown_models_and_memories_are_not_found(channel: aio.Channel) -> None:
    memories = memories_pb2_grpc.MemoriesStub(channel)
    data = memory_data_pb2_grpc.MemoryDataStub(channel)
    for call, word in (
        (memories.Create(memories_pb2.CreateRequest(name="a", model="huge")), "MODEL_NOT_FOUND"),
        (memories_pb2_grpc.ModelsStub(channel).Get(memories_pb2.ModelsGetRequest(name="huge")), "MODEL_NOT_FOUND"),
        (memories.Get(memories_pb2.GetRequest(name="a")), "MEMORY_NOT_FOUND"),
        (memories.Delete(memories_pb2.DeleteRequest(name="a")), "MEMORY_NOT_FOUND"),
        (data.Store(pb.StoreRequest(memory="a", tensors=[tensor(ONE)])), "MEMORY_NOT_FOUND"),
        (data.Recognize(pb.RecognizeRequest(memory="a", tensors=[tensor(ONE)])), "MEMORY_NOT_FOUND"),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is StatusCode.NOT_FOUND
        assert raw.reason(raw.status_of(caught.value)) == word
    async with raw_session(channel) as session:
        (status,) = raw.failures(await session.open("a", 1)).values()
        assert raw.reason(status) == "MEMORY_NOT_FOUND"


async def test_columns_that_disagree_fail_every_request_of_the_frame(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        good = columns([1, 2], [1, 1], tensor(TWO))
        for name, value, field in (
            ("handles", [1], "handles"),
            ("patterns", [1], "patterns"),
            ("patterns", [2, 0], "patterns"),
            ("patterns", [2**31, 1], "patterns"),
            ("deadline_ms", [1, 1, 1], "deadline_ms"),
        ):
            bad = pb.RequestColumns()
            bad.CopyFrom(good)
            bad.ClearField(name)  # type: ignore[arg-type]
            getattr(bad, name).extend(value)
            told = raw.failures(await session.ask(pb.SessionRequest(query=pb.QueryFrame(columns=bad))))
            assert set(told) == {1, 2}
            assert raw.violation(told[1])[0] == f"query.columns.{field}"
        told = raw.failures(await session.ask(pb.SessionRequest(store=pb.StoreFrame(columns=good, sequences=[1]))))
        assert raw.violation(told[2])[0] == "store.sequences"
        answer = await session.ask(pb.SessionRequest(query=pb.QueryFrame(columns=good)))
        assert answer.recalled.request_ids == [1, 2]


@pytest.mark.parametrize("ids", [[], [5, 5]])
async def test_a_frame_whose_requests_cannot_be_told_apart_ends_the_stream(
    channel: aio.Channel, ids: list[int]
) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        bad = columns(ids, [1] * len(ids), tensor(TWO))
        await session.send(pb.SessionRequest(store=pb.StoreFrame(columns=bad, sequences=[0] * len(ids))))
        error = await session.ended()
        assert error.code() is StatusCode.INVALID_ARGUMENT
        assert raw.violation(raw.status_of(error))[0] == "store.columns.request_ids"
    assert await raw.state(channel, "a") == (0, 0)


async def test_handles_must_be_bound_once(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        query = pb.SessionRequest(query=pb.QueryFrame(columns=columns([9], [1], tensor(ONE))))
        (status,) = raw.failures(await session.ask(query)).values()
        assert raw.reason(status) == "HANDLE_NOT_OPEN"
        assert (await session.open("a", 1)).HasField("opened")
        (status,) = raw.failures(await session.open("a", 1)).values()
        assert raw.violation(status)[0] == "open.handle"
        assert (await session.ask(query)).HasField("recalled")
        await session.send(pb.SessionRequest(close=pb.Close(handle=1)))
        (status,) = raw.failures(await session.ask(query)).values()
        assert raw.reason(status) == "HANDLE_NOT_OPEN"


async def test_more_steps_or_iterates_than_there_may_be_are_refused(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        frame = pb.QueryFrame(columns=columns([1], [1], tensor(ONE)), steps=257)
        (status,) = raw.failures(await session.ask(pb.SessionRequest(query=frame))).values()
        assert raw.violation(status) == ("query.steps", "saw 257; expected 0 (the model's own number) to 256")
        many = np.full((512, 4, 4), 0.5, np.float32)
        frame = pb.QueryFrame(columns=columns([1], [1], tensor(many), rows=512), steps=256, trajectory=True)
        (status,) = raw.failures(await session.ask(pb.SessionRequest(query=frame))).values()
        assert raw.violation(status)[0] == "query.trajectory"


@pytest.mark.parametrize(
    ("first", "field", "word"),
    [
        (
            pb.SessionRequest(hello=pb.Hello(protocol_version=2, client_id="a")),
            "hello.protocol_version",
            "PROTOCOL_VERSION",
        ),
        (pb.SessionRequest(hello=pb.Hello(protocol_version=1)), "hello.client_id", "INVALID_REQUEST"),
        (
            pb.SessionRequest(hello=pb.Hello(protocol_version=1, client_id="i" * 65)),
            "hello.client_id",
            "INVALID_REQUEST",
        ),
        (pb.SessionRequest(close=pb.Close(handle=1)), "frame", "INVALID_REQUEST"),
    ],
)
async def test_a_session_begins_with_a_hello_of_this_version(
    channel: aio.Channel, first: pb.SessionRequest, field: str, word: str
) -> None:
    call = memory_data_pb2_grpc.MemoryDataStub(channel).Session()
    session = raw.RawSession(call)
    await session.send(first)
    status = raw.status_of(await session.ended())
    assert (raw.violation(status)[0], raw.reason(status)) == (field, word)


async def test_pages_of_a_list_have_a_limit(channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await memories_pb2_grpc.MemoriesStub(channel).List(memories_pb2.ListRequest(page_size=1001))
    assert raw.violation(raw.status_of(caught.value)) == ("page_size", "saw 1001; expected at most 1000")


async def test_a_store_counted_by_half_is_refused(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    for request in (
        pb.StoreRequest(memory="a", tensors=[tensor(ONE)], sequence=1),
        pb.StoreRequest(memory="a", tensors=[tensor(ONE)], client_id="a"),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await memory_data_pb2_grpc.MemoryDataStub(channel).Store(request)
        assert raw.violation(raw.status_of(caught.value))[0] == "sequence"
    assert await raw.state(channel, "a") == (0, 0)
