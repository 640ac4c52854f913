"""The whole way of a request: SDK, stream, shard, batcher, engine, bank, and back."""

import anyio
import numpy as np
from tests.support.tiny_models import IMAGE

import attractor
from attractor_server.app import RunningShard


def images(random: np.random.Generator, count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return random.random((count, *IMAGE.shape), dtype=np.float32)


async def test_what_was_stored_is_more_familiar_than_what_was_not(
    client: attractor.AsyncClient, random: np.random.Generator
) -> None:
    memory = await client.create_memory("a", model="tiny")
    known, unknown = images(random, 4), images(random, 4)
    result = await memory.store(known)
    assert (result.version, result.total) == (1, 4)
    assert (await memory.recognize(known)).delta_energy.mean() < (await memory.recognize(unknown)).delta_energy.mean()


async def test_reading_lowers_the_energy_of_the_cue(client: attractor.AsyncClient, random: np.random.Generator) -> None:
    memory = await client.create_memory("a", model="tiny")
    await memory.store(images(random, 4))
    recall = await memory.query(images(random, 3), trajectory=True)
    assert recall.pattern.shape == (3, 4, 4)
    assert (recall.energy_after < recall.energy_before).all()
    assert recall.trajectory is not None
    assert recall.trajectory.pattern.shape == (5, 3, 4, 4)
    assert (recall.trajectory.pattern[-1] == recall.pattern).all()
    assert recall.steps.tolist() == [4, 4, 4]


async def test_memories_of_both_shards_are_reached_through_either(
    pair_of_shards: list[RunningShard], random: np.random.Generator
) -> None:
    first, second = pair_of_shards
    async with attractor.connect(first.info.address, timeout_s=20) as client:
        made = [await client.create_memory(f"agents/{n}", model="tiny") for n in range(20)]
        async with anyio.create_task_group() as tasks:
            for memory in made:
                tasks.start_soon(memory.store, images(random, 2))
    async with attractor.connect(second.info.address, timeout_s=20) as client:
        listed = [info async for info in client.memories("agents/")]
        assert [info.name for info in listed] == sorted(memory.name for memory in made)
        assert {info.patterns for info in listed} == {2}
        for memory in made:
            assert (await client.memory(memory.name).query(images(random, 1))).pattern.shape == (1, 4, 4)
