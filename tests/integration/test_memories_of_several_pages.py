"""Memories of several pages over the wire: how they are made, what they do when full, and which page answers."""

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode, aio
from numpy.testing import assert_allclose
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import serving

import attractor
from attractor_proto.names import slot_of
from attractor_proto.v1 import memories_pb2 as memories
from attractor_proto.v1 import memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.memories.outcomes import Recognized
from attractor_server.rpc.responses import PendingResponse, pack_frames
from attractor_server.shard.spec import ShardSpec

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def images(random: np.random.Generator, count: int) -> Floats:
    return random.random((count, 4, 4), dtype=np.float32)


def signs(random: np.random.Generator, count: int) -> Floats:
    return random.choice(np.array([-1, 1], np.float32), (count, 128))


def flipped(random: np.random.Generator, patterns: Floats, part: float = 0.1) -> Floats:
    return np.where(random.random(patterns.shape) < part, -patterns, patterns)


async def create(channel: aio.Channel, name: str, settings: memories.MemorySettings | None = None) -> memories.Memory:
    request = memories.CreateRequest(name=name, model="tiny", settings=settings)
    return (await memories_pb2_grpc.MemoriesStub(channel).Create(request)).memory


@pytest.fixture
async def shipped() -> AsyncIterator[attractor.AsyncClient]:
    """A client of a server with the models that ship."""
    async with (
        serving(ShardSpec(bank_bytes=1 << 24, warm_up=False)) as (shard,),
        attractor.connect(shard.info.address, timeout_s=60) as connected,
    ):
        yield connected


async def test_a_memory_made_without_settings_has_the_defaults_and_says_so(channel: aio.Channel) -> None:
    made = await create(channel, "a")
    assert made.settings == memories.MemorySettings(
        write=memories.WRITE_MODE_REWRITE,
        when_full=memories.WHEN_FULL_GROW,
        page_patterns=8,
        retain=memories.RETAIN_ALL,
        metric=memories.METRIC_MODEL,
        recall=memories.RECALL_POSTERIOR,
    )
    assert made.pages == 0
    stub = memories_pb2_grpc.MemoriesStub(channel)
    assert (await stub.Get(memories.GetRequest(name="a"))).memory == made
    assert list((await stub.List(memories.ListRequest())).memories) == [made]


async def test_settings_come_back_also_from_the_other_shard(pair_of_shards: list[RunningShard]) -> None:
    names = {slot_of(name) % 2: name for name in map(str, range(9))}
    async with attractor.connect(pair_of_shards[0].info.address, timeout_s=20, direct=False) as client:
        for name in names.values():
            memory = await client.create_memory(
                name, model="tiny", write="stream", when_full="forget", page_patterns=32
            )
            expected = attractor.MemorySettings(write="stream", when_full="forget", page_patterns=32)
            assert (await memory.info()).settings == expected


BAD_SETTINGS = memories.MemorySettings(write=3, when_full=9, page_patterns=33)  # type: ignore[arg-type] # that is the point
BAD_SETTINGS_SAID = [
    ("settings.write", "saw 3; expected 1 (rewrite), 2 (stream), or 0 (unspecified)"),
    ("settings.when_full", "saw 9; expected 1 (grow), 2 (refuse), 3 (forget), or 0 (unspecified)"),
    ("settings.page_patterns", "saw 33; expected 1 to 32, 4 times the model's capacity, or 0 (unspecified)"),
]


@pytest.mark.parametrize(
    "wrong", [["write"], ["when_full"], ["page_patterns"], ["write", "when_full", "page_patterns"]]
)
async def test_settings_that_cannot_be_meant_are_refused_by_name_and_nothing_is_made(
    channel: aio.Channel, wrong: list[str]
) -> None:
    settings = memories.MemorySettings()
    FieldMask(paths=wrong).MergeMessage(BAD_SETTINGS, settings)
    with pytest.raises(aio.AioRpcError) as caught:
        await create(channel, "a", settings)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    expected = [(field, said) for field, said in BAD_SETTINGS_SAID if field.removeprefix("settings.") in wrong]
    assert raw.violations(raw.status_of(caught.value)) == expected
    assert not (await memories_pb2_grpc.MemoriesStub(channel).List(memories.ListRequest())).memories


async def test_a_memory_is_made_again_with_the_settings_it_has_or_none(
    client: attractor.AsyncClient, random: np.random.Generator
) -> None:
    memory = await client.create_memory("a", model="tiny", write="stream", page_patterns=5)
    await memory.store(images(random, 1))
    first = await memory.info()
    for write, page_patterns in (("stream", 5), (None, 5), ("stream", None), (None, None)):
        again = await client.create_memory("a", model="tiny", write=write, page_patterns=page_patterns)  # type: ignore[arg-type]
        assert await again.info() == first
    assert (await client.create_memory("a", model="tiny", when_full="grow")).name == "a"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"write": "rewrite"}, "write is stream; asked for rewrite"),
        ({"when_full": "refuse"}, "when_full is grow; asked for refuse"),
        ({"page_patterns": 6}, "page_patterns is 5; asked for 6"),
    ],
)
async def test_a_memory_is_not_made_again_with_another_setting(
    client: attractor.AsyncClient, settings: dict[str, object], said: str
) -> None:
    memory = await client.create_memory("a", model="tiny", write="stream", page_patterns=5)
    first = await memory.info()
    with pytest.raises(attractor.Conflict, match=f"memory 'a' exists and its {said}") as caught:
        await client.create_memory("a", model="tiny", **settings)  # type: ignore[arg-type]
    assert caught.value.reason == "MEMORY_OF_OTHER_SETTINGS"
    assert await memory.info() == first


async def test_another_model_goes_before_other_settings(client: attractor.AsyncClient) -> None:
    await client.create_memory("a", model="tiny")
    with pytest.raises(attractor.Conflict) as caught:
        await client.create_memory("a", model="pair", write="stream")
    assert caught.value.reason == "MEMORY_OF_OTHER_MODEL"


def test_answers_of_memories_with_one_page_and_with_several_share_a_frame() -> None:
    one = Recognized(energy=np.zeros(2, np.float32), delta_energy=np.zeros(2, np.float32))
    several = replace(one, pages=np.array([3, 0]))
    items = [PendingResponse(content, number) for number, content in enumerate((one, several, one))]
    ((frame, _),) = pack_frames(items, 1 << 20)
    assert frame.recognized.pages == [0, 0, 3, 0, 0, 0]
    ((frame, _),) = pack_frames(items[::2], 1 << 20)
    assert not frame.recognized.pages


async def test_what_was_stored_one_at_a_time_in_many_pages_is_recalled_and_the_answer_names_its_page(
    shipped: attractor.AsyncClient,
    random: np.random.Generator,
) -> None:
    patterns = signs(random, 100)
    memory = await shipped.create_memory("a", model="binary-128", page_patterns=16)
    totals = [(await memory.store(pattern)).total for pattern in patterns]
    assert totals == list(range(1, 101))
    assert (await memory.info()).pages == 7
    recall = await memory.query(flipped(random, patterns))
    assert (recall.page == np.arange(100) // 16).all()
    assert (np.sign(recall.pattern) == patterns).mean() > 0.999
    known = await memory.recognize(np.concatenate([patterns, signs(random, 100)]))
    assert (known.page[:100] == np.arange(100) // 16).all()
    assert known.delta_energy[:100].max() < known.delta_energy[100:].min()


async def test_a_store_of_more_than_a_page_fills_several(
    client: attractor.AsyncClient, random: np.random.Generator
) -> None:
    memory = await client.create_memory("a", model="tiny", page_patterns=4)
    result = await memory.store(images(random, 10))
    assert (result.version, result.total) == (1, 10)
    assert (await memory.info()).pages == 3


async def test_a_memory_that_refuses_takes_no_more_than_its_page(
    client: attractor.AsyncClient, random: np.random.Generator
) -> None:
    patterns = images(random, 4)
    memory = await client.create_memory("a", model="tiny", when_full="refuse", page_patterns=4)
    await memory.store(patterns[:3])
    before = await memory.recognize(patterns)
    with pytest.raises(attractor.MemoryFull, match="memory 'a'"):
        await memory.store(images(random, 2))  # one of them would have room
    info = await memory.info()
    assert (info.version, info.patterns, info.pages) == (1, 3, 1)
    assert (await memory.recognize(patterns)).energy.tolist() == before.energy.tolist()
    assert (await memory.store(patterns[3])).total == 4
    with pytest.raises(attractor.MemoryFull):
        await memory.store(images(random, 1))
    assert (await memory.info()).version == 2


async def test_a_memory_that_forgets_keeps_the_newest_pages(
    shipped: attractor.AsyncClient, random: np.random.Generator
) -> None:
    patterns = signs(random, 20)
    memory = await shipped.create_memory("a", model="binary-128", when_full="forget", page_patterns=8)
    totals = [(await memory.store(pattern)).total for pattern in patterns]
    assert totals == [*range(1, 17), 9, 10, 11, 12]
    info = await memory.info()
    assert (info.version, info.patterns, info.pages) == (20, 12, 2)
    found = await memory.recognize(patterns)
    assert found.delta_energy[8:].max() < found.delta_energy[:8].min()
    assert found.page[8:].tolist() == [0] * 8 + [1] * 4


async def test_a_session_and_a_unary_call_name_the_same_pages(
    channel: aio.Channel, random: np.random.Generator
) -> None:
    await create(channel, "a", memories.MemorySettings(page_patterns=2))
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    patterns = images(random, 6)
    for first in range(0, 6, 2):
        await stub.Store(pb.StoreRequest(memory="a", tensors=[tensor(patterns[first : first + 2])]))
    sent = tensor(patterns)
    query = await stub.Query(pb.QueryRequest(memory="a", tensors=[sent]))
    recognize = await stub.Recognize(pb.RecognizeRequest(memory="a", tensors=[sent]))
    assert set(query.scores.pages) > {0}
    assert recognize.pages == query.scores.pages
    async with raw_session(channel) as session:
        await session.open("a", 1)
        asked = columns([1, 2, 3], [1, 1, 1], sent, rows=2)
        framed = (await session.ask(pb.SessionRequest(query=pb.QueryFrame(columns=asked)))).recalled
        assert framed.scores.pages == query.scores.pages
        answer = await session.ask(pb.SessionRequest(recognize=pb.RecognizeFrame(columns=asked)))
        assert answer.recognized.pages == query.scores.pages


async def test_a_full_memory_is_a_failed_precondition_and_the_store_is_tried_afresh_when_repeated(
    channel: aio.Channel,
    random: np.random.Generator,
) -> None:
    refusing = memories.MemorySettings(when_full=memories.WHEN_FULL_REFUSE, page_patterns=2)
    await create(channel, "a", refusing)
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    three = pb.StoreRequest(memory="a", tensors=[tensor(images(random, 3))], client_id="tests", sequence=1)
    for _ in range(2):
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.Store(three)
        assert caught.value.code() is StatusCode.FAILED_PRECONDITION
        assert raw.reason(raw.status_of(caught.value)) == "MEMORY_FULL"
    two = pb.StoreRequest(memory="a", tensors=[tensor(images(random, 2))], client_id="tests", sequence=1)
    assert (await stub.Store(two)).total == 2
    assert await raw.state(channel, "a") == (1, 2)


async def test_the_page_is_named_also_through_a_shard_that_forwards(
    pair_of_shards: list[RunningShard], random: np.random.Generator
) -> None:
    patterns = images(random, 6)
    there = next(name for name in map(str, range(99)) if slot_of(name) % 2)
    async with attractor.connect(pair_of_shards[1].info.address, timeout_s=20) as client:
        memory = await client.create_memory(there, model="tiny", page_patterns=2)
        await memory.store(patterns)
        recall, familiarity = await memory.query(patterns), await memory.recognize(patterns)
        assert recall.page.any()
    async with attractor.connect(pair_of_shards[0].info.address, timeout_s=20, direct=False) as client:
        assert (await client.memory(there).query(patterns)).page.tolist() == recall.page.tolist()
        assert (await client.memory(there).recognize(patterns)).page.tolist() == familiarity.page.tolist()
        assert (await client.memory(there).info()).pages == 3


async def test_where_page_0_answers_everything_no_page_is_sent(
    channel: aio.Channel, random: np.random.Generator
) -> None:
    await create(channel, "a")
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    sent = tensor(images(random, 3))
    await stub.Store(pb.StoreRequest(memory="a", tensors=[sent]))
    assert not (await stub.Query(pb.QueryRequest(memory="a", tensors=[sent]))).scores.pages
    assert not (await stub.Recognize(pb.RecognizeRequest(memory="a", tensors=[sent]))).pages


async def test_a_memory_that_rewrites_is_the_same_however_its_patterns_came(
    client: attractor.AsyncClient, random: np.random.Generator
) -> None:
    patterns, others = images(random, 8), images(random, 8)
    energies: dict[tuple[str, bool], Floats] = {}
    for write in ("rewrite", "stream"):
        for at_once in (True, False):
            memory = await client.create_memory(f"{write}/{at_once}", model="tiny", write=write)
            for part in [patterns] if at_once else patterns:
                await memory.store(part)
            energies[write, at_once] = (await memory.recognize(np.concatenate([patterns, others]))).energy
    assert_allclose(energies["rewrite", False], energies["rewrite", True], rtol=1e-5, atol=1e-5)
    assert_allclose(energies["stream", True], energies["rewrite", True], rtol=1e-5, atol=1e-5)
    assert np.abs(energies["stream", False] - energies["stream", True]).max() > 1e-3
