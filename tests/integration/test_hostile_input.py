"""What no honest client sends costs the server little, and is refused as any other fault is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import HERE, THERE, serving
from tests.support.tiny_models import IMAGE, tiny_model

import attractor
from attractor_proto.names import slot_of
from attractor_proto.v1 import (
    memories_pb2,
    memories_pb2_grpc,
    memory_copies_pb2,
    memory_copies_pb2_grpc,
    memory_data_pb2_grpc,
)
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.energy.model_file import save_model
from attractor_server.errors import ModelFileError
from attractor_server.memories.names import HIDDEN
from attractor_server.model_registry import load_models
from attractor_server.rpc.context import FORWARDED
from attractor_server.rpc.fellows import FELLOW_KEY
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

ONE = np.full((1, 4, 4), 0.5, np.float32)
LONG = "x" * 100_000
HUGE = 2**32 - 1

BAD_STORES = {
    "a long field": pb.StoreRequest(memory="a", tensors=[tensor(ONE, field=LONG)]),
    "a long client id": pb.StoreRequest(memory="a", tensors=[tensor(ONE)], client_id=LONG),
    "a long shape": pb.StoreRequest(memory="a", tensors=[pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[1] * 100_000)]),
    "a shape beyond memory": pb.StoreRequest(
        memory="a", tensors=[pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=(HUGE, 4, 4))]
    ),
}
MISLEADING = {
    "another number of patterns": pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=(5, 4, 4), data=bytes(128)),
    "a mask too long": pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=(2, 4, 4), data=bytes(128), known=bytes(5)),
    "a shape beyond numbers": pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=(2, HUGE, HUGE), data=bytes(128), known=bytes(4)),
}
ALSO_HERE = next(f"n{n}" for n in range(99) if slot_of(f"n{n}") % 2 == slot_of(HERE) % 2)
TWO = tensor(np.repeat(ONE, 2, 0))
ITEM, LONG_ITEM = memories_pb2.Item(id="a"), memories_pb2.Item(id="x" * 10_000)
BAD_FRAMES = {
    "one item for two": ([TWO], [ITEM], "store.items", "saw 1 items; expected none, or 2"),
    "three items for two": ([TWO], [ITEM] * 3, "store.items", "saw 3 items; expected none, or 2"),
    "one bad item": ([TWO], [ITEM, LONG_ITEM], "store.items[1].id", "saw 10000 characters"),
    "one row for two": ([tensor(ONE)], [], "store.columns.tensors[0].shape", "expected 2 patterns"),
    "three rows for two": ([tensor(np.repeat(ONE, 3, 0))], [], "store.columns.tensors[0].shape", "expected 2 patterns"),
    "no shape": ([pb.Tensor(dtype=pb.DTYPE_FLOAT32)], [], "store.columns.tensors[0].shape", "saw ();"),
    "a row missing": (
        [pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=(2, 4, 4), data=ONE.tobytes())],
        [],
        "store.columns.tensors[0].data",
        "saw 64 bytes; expected 128",
    ),
    "a mask of one": (
        [pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=(2, 4, 4), data=ONE.tobytes() * 2, known=bytes(2))],
        [],
        "store.columns.tensors[0].known",
        "saw 2 bytes; expected 4",
    ),
}
"""Frames of two stores: tensors, items, and the fault in them"""


@pytest.mark.parametrize("case", BAD_STORES)
async def test_a_store_is_refused_in_a_few_words_however_long_its_faults_are(channel: aio.Channel, case: str) -> None:
    await raw.create(channel, "a")
    with pytest.raises(aio.AioRpcError) as caught:
        await memory_data_pb2_grpc.MemoryDataStub(channel).Store(BAD_STORES[case])
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    status = raw.status_of(caught.value)
    assert raw.violation(status)[1].startswith("saw ")
    assert status.ByteSize() < 1000
    assert await raw.state(channel, "a") == (0, 0)


async def test_a_long_name_of_a_model_is_not_repeated_whole(channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await memories_pb2_grpc.MemoriesStub(channel).Create(memories_pb2.CreateRequest(name="a", model=LONG))
    assert raw.reason(raw.status_of(caught.value)) == "MODEL_NOT_FOUND"


async def test_a_fault_shared_by_many_requests_does_not_multiply_what_was_sent(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        ids = range(1, 257)
        bad = columns(ids, [1] * 256, tensor(np.repeat(ONE, 256, 0), field=LONG))
        answer = await session.ask(pb.SessionRequest(store=pb.StoreFrame(columns=bad, sequences=[0] * 256)))
        assert set(raw.failures(answer)) == set(ids)
        assert answer.ByteSize() < 256 * 1000
        good = pb.QueryFrame(columns=columns([1], [1], tensor(ONE)))
        assert (await session.ask(pb.SessionRequest(query=good))).HasField("recalled")


async def test_a_frame_of_more_requests_than_may_be_ends_the_stream(channel: aio.Channel) -> None:
    async with raw_session(channel) as session:
        frame = pb.QueryFrame(columns=pb.RequestColumns(request_ids=range(1, 200_000)))
        await session.send(pb.SessionRequest(query=frame))
        status = raw.status_of(await session.ended())
        said = "saw 13107 or more requests; expected at most 1024"
        assert raw.violation(status) == ("query.columns.request_ids", said)


@pytest.mark.parametrize("case", MISLEADING)
async def test_a_malformed_tensor_is_not_mended_on_its_way_to_the_owner(
    pair_of_shards: list[RunningShard], case: str
) -> None:
    async with aio.insecure_channel(pair_of_shards[0].info.address) as channel, raw_session(channel) as session:
        for handle, name in ((1, HERE), (2, THERE)):
            await raw.create(channel, name)
            await session.open(name, handle)
        frame = pb.QueryFrame(columns=columns([1, 2], [1, 2], MISLEADING[case]))
        assert set(raw.failures(await session.ask(pb.SessionRequest(query=frame)))) == {1, 2}


@pytest.mark.parametrize("case", BAD_FRAMES)
async def test_a_frame_whose_parts_disagree_is_refused_whole_wherever_its_memories_are(
    spec: ShardSpec, tmp_path: Path, case: str
) -> None:
    tensors, items, field, said = BAD_FRAMES[case]
    told = []
    async with (
        serving(replace(spec, store_uri=uri_of(tmp_path)), 2) as (shard, _),
        aio.insecure_channel(shard.info.address) as channel,
        raw_session(channel) as session,
    ):
        for handle, name in enumerate((HERE, ALSO_HERE, THERE)):
            await raw.create(channel, name)
            await session.open(name, handle)
        for handles in ((0, 1), (0, 2), (2, 0)):
            store = pb.StoreFrame(columns=columns([1, 2], handles, *tensors), items=items, sequences=[0, 0])
            failed = raw.failures(await session.ask(pb.SessionRequest(store=store)))
            while len(failed) < 2:
                failed |= raw.failures(await session.receive())
            told.append(failed)
        assert [await raw.state(channel, name) for name in (HERE, ALSO_HERE, THERE)] == [(0, 0)] * 3
    assert raw.violation(told[0][1])[0] == field
    assert said in raw.violation(told[0][1])[1]
    assert told[0] == told[1] == told[2]


async def test_only_a_shard_of_the_same_store_takes_hidden_snapshots(spec: ShardSpec, tmp_path: Path) -> None:
    async with (
        serving(replace(spec, store_uri=uri_of(tmp_path / "data")), 2) as (shard, _),
        aio.insecure_channel(shard.info.address) as channel,
        attractor.connect(shard.info.address, timeout_s=20, direct=False) as client,
    ):
        await raw.create(channel, HERE)
        memory = await client.create_memory(THERE, model="tiny")
        copies = memory_copies_pb2_grpc.CopiesStub(channel)
        ways = (HERE, FORWARDED), (HERE, (*FORWARDED, (FELLOW_KEY, "1"))), (HERE, (*FORWARDED, (FELLOW_KEY, "")))
        for name, metadata in ((HERE, ()), (THERE, ()), *ways):  # the second is passed on by a shard
            hidden = memory_copies_pb2.TakeSnapshotRequest(name=name, tag=f"{HIDDEN}mine")
            with pytest.raises(aio.AioRpcError) as caught:
                await copies.TakeSnapshot(hidden, metadata=metadata)
            assert raw.violation(raw.status_of(caught.value))[0] == "tag"
        await memory.store(ONE)
        await memory.export(tmp_path / "there")  # by way of a shard that does not own it
        assert (await client.import_memory(tmp_path / "there", name="again")).name == "again"


@pytest.mark.parametrize("field", ["prefix", "page_token"])
async def test_a_list_beyond_what_names_have_is_refused_and_not_repeated(durable: ShardSpec, field: str) -> None:
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        request = memories_pb2.ListRequest()
        setattr(request, field, "a\0b")
        with pytest.raises(aio.AioRpcError) as caught:
            await memories_pb2_grpc.MemoriesStub(channel).List(request)
        assert raw.violation(raw.status_of(caught.value)) == (
            field,
            r"saw 'a\x00b'; expected none of its characters to be U+0000",
        )


async def test_a_unary_answer_that_no_message_holds_is_refused_with_its_reason(spec: ShardSpec, tmp_path: Path) -> None:
    async with (
        serving(replace(spec, store_uri=uri_of(tmp_path))) as (shard,),
        aio.insecure_channel(shard.info.address) as channel,
        attractor.connect(shard.info.address, timeout_s=20) as client,
    ):
        memory = await client.create_memory("a", model="tiny")
        await memory.store(ONE[0], payloads=b"x" * 65_536)
        request = pb.QueryRequest(memory="a", tensors=[tensor(np.repeat(ONE, 300, 0))], match=True)
        with pytest.raises(aio.AioRpcError) as caught:
            await memory_data_pb2_grpc.MemoryDataStub(channel).Query(request)
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert raw.reason(raw.status_of(caught.value)) == "EXHAUSTED"


@pytest.mark.parametrize("host", ["::1", "::", "[::1]", "127.0.0.1"])
async def test_a_shard_listens_on_any_spelling_of_an_address(spec: ShardSpec, host: str) -> None:
    advertise = "::1" if ":" in host else host
    async with (
        serving(replace(spec, host=host, advertise=advertise)) as (shard,),
        attractor.connect(shard.info.address, timeout_s=20) as client,
    ):
        assert [info async for info in client.memories()] == []


@pytest.mark.parametrize("name", ["../../x", "a\0b", "x" * 300, "a@b", ""])
def test_a_model_is_not_served_under_a_name_that_is_a_path(tmp_path: Path, name: str) -> None:
    save_model(replace(tiny_model("tiny", IMAGE), name=name), tmp_path / "file.safetensors")
    with pytest.raises(ModelFileError, match=r"^file\.safetensors: "):
        load_models(tmp_path, device="cpu")


def test_a_model_of_the_folder_goes_before_one_that_ships_and_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tiny_model("text", IMAGE), tmp_path / "file.safetensors")
    assert load_models(tmp_path, device="cpu")["text"].layout.fields == (IMAGE,)
    assert any("model 'text' of" in line and "goes before" in line for line in caplog.messages)
