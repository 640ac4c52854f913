"""A client whose shard is lost goes on with others that it was told of."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.support.fake_server import QUICK, FakeServer, serving

import attractor

ONE = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
async def other(fake: FakeServer) -> AsyncIterator[FakeServer]:
    """Another shard of the same server, which every client is told of."""
    async with serving(FakeServer()) as shard:
        shard.memories = fake.memories
        for one in (fake, shard):
            one.welcome.shards[:] = [fake.address, shard.address]
        yield shard


async def test_stores_and_calls_go_on_when_the_only_shard_that_was_used_is_gone(
    fake: FakeServer, other: FakeServer
) -> None:
    async with attractor.connect(fake.address, timeout_s=20, retry=QUICK) as client:
        memory = await client.create_memory("faces", model="tiny")
        assert await memory.store(ONE) == attractor.StoreResult(version=1, total=1)
        await fake.stop()
        assert await memory.store(ONE) == attractor.StoreResult(version=2, total=2)
        assert (await client.create_memory("more", model="tiny")).name == "more"
        assert await client.memory("more").store(ONE) == attractor.StoreResult(version=1, total=1)
        assert await memory.store(ONE) == attractor.StoreResult(version=3, total=3)
    assert len(fake.of_kind("store")) == 1
    assert [list(frame.store.sequences) for frame in other.of_kind("store")] == [[2], [1], [3]]


async def test_a_call_is_made_to_another_shard_where_the_first_is_gone_before_anything_was_stored(
    fake: FakeServer, other: FakeServer
) -> None:
    async with attractor.connect(fake.address, timeout_s=20, retry=QUICK) as client:
        await fake.stop()
        assert [model.name for model in await client.models()] == ["tiny", "pair"]
        assert (await client.create_memory("faces", model="tiny")).name == "faces"
    assert len(other.created) == 1


async def test_who_wants_no_direct_connections_waits_for_the_address_that_was_given(
    fake: FakeServer, other: FakeServer
) -> None:
    async with attractor.connect(fake.address, timeout_s=0.5, retry=QUICK, direct=False) as client:
        memory = await client.create_memory("faces", model="tiny")
        await fake.stop()
        with pytest.raises(attractor.TimeoutExceeded):
            await memory.store(ONE)
        with pytest.raises(attractor.TimeoutExceeded):
            await client.models()
    assert not other.frames


async def test_a_shard_that_was_told_of_and_does_not_answer_is_no_hindrance(fake: FakeServer) -> None:
    async with serving(FakeServer()) as gone:
        fake.welcome.shards[:] = [fake.address, gone.address]
    port = int(fake.address.rpartition(":")[2])
    async with attractor.connect(fake.address, timeout_s=20, retry=QUICK) as client:
        memory = await client.create_memory("faces", model="tiny")
        await memory.store(ONE)
        await fake.stop()
        async with serving(fake, port):
            assert (await memory.store(ONE)).total == 2
            assert (await client.create_memory("more", model="tiny")).name == "more"


async def test_a_shard_that_failed_a_moment_ago_is_tried_again_where_there_is_no_other(
    fake: FakeServer, other: FakeServer
) -> None:
    fake.routes["faces"] = other.address
    port = int(other.address.rpartition(":")[2])
    async with attractor.connect(fake.address, timeout_s=3, retry=QUICK) as client:  # less than it is avoided for
        memory = await client.create_memory("faces", model="tiny")
        assert (await memory.store(ONE)).total == 1
        await other.stop()
        assert (await memory.store(ONE)).total == 2
        async with serving(other, port):
            await fake.stop()
            assert (await memory.store(ONE)).total == 3
