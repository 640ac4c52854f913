"""Memories that are forgotten some time after they were last written."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from tests.support.shards import connected
from tests.support.tiny_models import images

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.opening import open_store
from attractor_server.storage.backends.sqlite_backend import uri_of

WHILE_S = 1.0


@pytest.fixture(params=["kept", "not kept"])
def any_spec(request: pytest.FixtureRequest, spec: ShardSpec, tmp_path: Path) -> ShardSpec:
    return replace(spec, store_uri=uri_of(tmp_path)) if request.param == "kept" else spec


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


async def test_a_time_beyond_all_dates_is_refused_and_nothing_is_made(client: attractor.AsyncClient) -> None:
    with pytest.raises(attractor.InvalidRequest, match=r"ttl_s: saw 3\.1536e\+16; expected seconds, at most 2\.5e\+11"):
        await client.create_memory("a", model="tiny", ttl_s=365 * 86_400 * 10**9)  # nanoseconds, by mistake
    assert not [info async for info in client.memories()]
    await client.create_memory("a", model="tiny", ttl_s=2.5e11)
    assert (await client.memory("a").info()).expires is not None


async def test_a_memory_of_an_older_server_that_outlives_all_dates_is_told_without_its_end(durable: ShardSpec) -> None:
    async with connected(durable) as client:
        for name in ("a", "b"):
            await client.create_memory(name, model="tiny", ttl_s=1e9)
    await anyio.to_thread.run_sync(lengthen, durable.store_uri)
    async with connected(durable) as client:
        listed = {info.name: info.expires async for info in client.memories()}
        assert listed["a"] is None
        assert listed["b"] is not None
        memory = client.memory("a")
        await memory.store(images(1))
        await memory.snapshot("one")
        await memory.restore("one")
        fork = await memory.fork("c")
        assert (await fork.info()).expires is None


def lengthen(store_uri: str) -> None:
    with closing(open_store(store_uri)) as store, store.transaction() as cursor:
        cursor.execute("UPDATE memories SET ttl_s = ?, expires_s = ? WHERE name = ?", (1e12, 1e12, "a"))
