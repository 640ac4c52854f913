"""Memories of several pages over the wire: how they are made, what they do when full, and which page answers."""

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode, aio
from tests.server import raw
from tests.server.conftest import serving

import attractor
from attractor_proto.names import slot_of
from attractor_proto.v1 import memories_pb2 as memories
from attractor_proto.v1 import memories_pb2_grpc
from attractor_server.app import RunningShard, ShardSpec
from attractor_server.engine.work import Recognized
from attractor_server.rpc.answers import Item, frames_of

RANDOM = np.random.default_rng(11)
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def images(count: int) -> Floats:
    return RANDOM.random((count, 4, 4), dtype=np.float32)


def signs(count: int) -> Floats:
    return RANDOM.choice(np.array([-1, 1], np.float32), (count, 128))


def flipped(patterns: Floats, part: float = 0.1) -> Floats:
    return np.where(RANDOM.random(patterns.shape) < part, -patterns, patterns)


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
        write=memories.WRITE_MODE_REWRITE, when_full=memories.WHEN_FULL_GROW, page_patterns=8
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


async def test_a_memory_is_made_again_with_the_settings_it_has_or_none(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="tiny", write="stream", page_patterns=5)
    await memory.store(images(1))
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
    items = [Item(content, number) for number, content in enumerate((one, several, one))]
    ((frame, _),) = frames_of(items, 1 << 20)
    assert frame.recognized.pages == [0, 0, 3, 0, 0, 0]
    ((frame, _),) = frames_of(items[::2], 1 << 20)
    assert not frame.recognized.pages
