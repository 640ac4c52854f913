"""A memory that somebody deletes and makes anew, under the same name: what others hold of it follows."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.support.tiny_models import IMAGE, KEY, VALUE

import attractor
from attractor_server.app import RunningShard

IMAGES = np.random.default_rng(0).random((3, *IMAGE.shape), dtype=np.float32)
PAIR = {"key": np.ones(KEY.shape, np.float32), "value": np.ones(VALUE.shape, np.float32)}


@pytest.fixture
async def other(shard: RunningShard) -> AsyncIterator[attractor.AsyncClient]:
    async with attractor.connect(shard.info.address, timeout_s=20) as connected:
        yield connected


async def made_anew(by: attractor.AsyncClient, model: str) -> attractor.AsyncMemory:
    await by.delete_memory("m")
    return await by.create_memory("m", model=model)


async def test_stores_and_queries_go_to_a_memory_that_was_made_anew_of_the_same_model(
    client: attractor.AsyncClient, other: attractor.AsyncClient
) -> None:
    memory = await client.create_memory("m", model="tiny")
    async with memory.stream() as stream:
        for total in (1, 2):
            assert [result.total async for result in stream.store([IMAGES[0]])] == [total]
        for _ in range(3):
            await made_anew(other, "tiny")
            assert [(await memory.store(image)).total for image in IMAGES] == [1, 2, 3]
            assert (await other.memory("m").info()).patterns == 3
            await made_anew(other, "tiny")
            assert (await memory.query(IMAGES[0])).pattern.shape == IMAGE.shape
            assert [result.total async for result in stream.store(IMAGES)] == [1, 2, 3]


@pytest.mark.parametrize("same", [True, False], ids=["by the same client", "by another one"])
async def test_a_memory_takes_patterns_of_the_model_that_it_was_made_anew_of(
    client: attractor.AsyncClient, other: attractor.AsyncClient, *, same: bool
) -> None:
    memory = await client.create_memory("m", model="tiny")
    async with memory.stream() as stream:
        await memory.store(IMAGES)
        await made_anew(client if same else other, "pair")
        if not same:  # which is told once, by the patterns of the former model
            with pytest.raises(attractor.MemoryNotFound, match="'m'"):
                await memory.store(IMAGES)
        assert (await memory.store(PAIR)).total == 1
        assert [result.total async for result in stream.store([PAIR, PAIR])] == [2, 3]
        with pytest.raises(attractor.InvalidRequest):
            await memory.query(IMAGES[0])
        assert (await memory.model()).name == "pair"


async def test_a_stream_follows_a_memory_to_another_model(
    client: attractor.AsyncClient, other: attractor.AsyncClient
) -> None:
    memory = await client.create_memory("m", model="tiny")
    async with memory.stream() as stream:
        assert [result.total async for result in stream.store(IMAGES)] == [1, 2, 3]
        await made_anew(other, "pair")
        with pytest.raises(attractor.MemoryNotFound):
            assert [result async for result in stream.store(IMAGES)]
        assert [result.total async for result in stream.store([PAIR])] == [1]


async def test_to_ask_about_a_memory_tells_of_its_new_model(
    client: attractor.AsyncClient, other: attractor.AsyncClient
) -> None:
    memory = await client.create_memory("m", model="tiny")
    await memory.store(IMAGES)
    await made_anew(other, "pair")
    assert (await memory.info()).model == "pair"
    assert (await memory.store(PAIR)).total == 1


async def test_a_memory_that_is_deleted_and_not_made_anew_is_not_found(
    client: attractor.AsyncClient, other: attractor.AsyncClient
) -> None:
    memory = await client.create_memory("m", model="tiny")
    await memory.store(IMAGES)
    await other.delete_memory("m")
    for _ in range(2):
        with pytest.raises(attractor.MemoryNotFound):
            await memory.store(IMAGES)
        with pytest.raises(attractor.MemoryNotFound):
            await memory.query(IMAGES)
