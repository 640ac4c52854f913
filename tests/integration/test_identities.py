"""Each opening of a client is another client to the server: nothing that it sends is taken for a repeat."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.shards import serving
from tests.support.tiny_models import IMAGE

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

COPIES: list[Callable[[attractor.AsyncClient], attractor.AsyncClient]] = [
    copy.copy,
    copy.deepcopy,
    lambda client: pickle.loads(pickle.dumps(client)),
]


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).random((count, *IMAGE.shape), dtype=np.float32)


async def test_a_client_opened_again_deletes_and_stores_as_in_its_first_life(spec: ShardSpec, tmp_path: Path) -> None:
    async with serving(replace(spec, store_uri=uri_of(tmp_path / "data"))) as (shard,):
        client = attractor.connect(shard.info.address, timeout_s=20)
        for _ in range(3):
            async with client:
                memory = await client.create_memory("m", model="tiny")
                assert (await memory.store(images(2))).total == 2
                await client.delete_memory("m")
                with pytest.raises(attractor.MemoryNotFound):
                    await client.get_memory("m")


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
async def test_a_copy_of_an_open_client_is_another_one(
    spec: ShardSpec, copied: Callable[[attractor.AsyncClient], attractor.AsyncClient]
) -> None:
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as one:
        memory = await one.create_memory("m", model="tiny")
        with pytest.raises(attractor.Closed):
            copied(one).memory("m")
        async with copied(one) as other:
            for number in range(3):
                assert (await memory.store(images(1))).total == 2 * number + 1
                assert (await other.memory("m").store(images(1))).total == 2 * number + 2


async def test_an_open_client_is_not_entered_once_more_and_goes_on(spec: ShardSpec) -> None:
    async with serving(spec) as (shard,):
        client = attractor.connect(shard.info.address, timeout_s=20)
        refused = 0

        async def enter() -> None:
            nonlocal refused
            with pytest.raises(attractor.ClientOpen, match="open already"):
                await client.__aenter__()
            refused += 1

        async with client:
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(enter)
            memory = await client.create_memory("m", model="tiny")
            assert (await memory.store(images(1))).total == 1
        assert refused == 5


async def test_a_client_that_reached_no_server_can_be_entered_again(spec: ShardSpec) -> None:
    client = attractor.connect("127.0.0.1:1", connect_timeout_s=0.2)
    for _ in range(2):
        with pytest.raises(attractor.Unreachable):
            await client.__aenter__()


async def test_a_client_left_twice_is_closed_and_can_be_entered_again(spec: ShardSpec) -> None:
    async with serving(spec) as (shard,):
        client = attractor.connect(shard.info.address, timeout_s=20)
        await client.__aexit__(None, None, None)
        for _ in range(2):
            await client.__aenter__()
            assert [model.name for model in await client.models()]
            await client.__aexit__(None, None, None)
            await client.__aexit__(None, None, None)
