"""Memories that are forgotten some time after they were last written."""

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.server.test_durability import connected, durable, images

import attractor
from attractor_server.app import ShardSpec

__all__ = ["durable"]
WHILE_S = 1.0


@pytest.fixture(params=["kept", "not kept"])
def any_spec(request: pytest.FixtureRequest, spec: ShardSpec, tmp_path: Path) -> ShardSpec:
    return replace(spec, data=tmp_path) if request.param == "kept" else spec


async def gone(client: attractor.AsyncClient, name: str) -> None:
    with anyio.fail_after(15):
        while True:
            try:
                await client.memory(name).info()
            except attractor.MemoryNotFound:
                return
            await anyio.sleep(0.1)


async def test_a_memory_goes_when_its_time_is_over_and_one_that_is_written_stays(any_spec: ShardSpec) -> None:
    async with connected(any_spec) as client:
        short = await client.create_memory("short", model="tiny", ttl_s=WHILE_S)
        written = await client.create_memory("written", model="tiny", ttl_s=4 * WHILE_S)
        await client.create_memory("kept", model="tiny")
        await short.store(images(2))
        before = (await written.info()).expires
        await gone(client, "short")
        await written.store(images(1))
        after = (await written.info()).expires
        assert before is not None
        assert after is not None
        assert after > before
        assert [info.name async for info in client.memories()] == ["kept", "written"]
        with pytest.raises(attractor.MemoryNotFound):
            await short.query(images(1))
        again = await client.create_memory("short", model="tiny", ttl_s=WHILE_S)
        assert (await again.info()).patterns == 0


async def test_time_goes_on_while_the_server_is_down(durable: ShardSpec) -> None:
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="tiny", ttl_s=WHILE_S)
        await memory.store(images(5))
    await anyio.sleep(WHILE_S)
    async with connected(durable) as client:
        await gone(client, "a")


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf")])
async def test_a_time_that_cannot_be_meant_is_refused(client: attractor.AsyncClient, ttl_s: float) -> None:
    with pytest.raises(attractor.InvalidRequest, match="ttl_s: saw"):
        await client.create_memory("a", model="tiny", ttl_s=ttl_s)
