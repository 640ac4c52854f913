"""A store whose disk is full: what was acknowledged is there, and deletions make room again."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.shards import serving
from tests.support.tiny_models import IMAGE

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

DISK_MIB = 24
EACH = 16
"""Patterns of a store, with as long a payload as one may have"""
TIMEOUT_S = 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may mount no disk of a given size")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@asynccontextmanager
async def connected(spec: ShardSpec) -> AsyncIterator[attractor.AsyncClient]:
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=TIMEOUT_S) as client:
        yield client


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((count, *IMAGE.shape), dtype=np.float32)


async def fill_up(memory: attractor.AsyncMemory) -> int:
    """Store until the disk is full; return how many patterns were acknowledged."""
    for stored in range(0, 100 * DISK_MIB, EACH):
        try:
            await memory.store(images(EACH), payloads=[bytes(1 << 16)] * EACH)
        except attractor.Exhausted:
            return stored
    raise AssertionError("the disk was never full")


async def test_on_a_full_disk_deletes_erases_and_a_restart_succeed_and_make_room(
    spec: ShardSpec, small_disk: Path
) -> None:
    kept = replace(spec, store_uri=uri_of(small_disk / "data"))
    async with connected(kept) as client:
        few = await client.create_memory("few", model="able")
        await few.store(images(4))
        many = await client.create_memory("many", model="tiny")
        stored = await fill_up(many)
        fill_the_rest(small_disk / "first")
        await few.erase(images(2))
        assert (await few.info()).patterns == 2
    fill_the_rest(small_disk / "second")
    async with connected(kept) as client:
        many = client.memory("many")
        assert (await many.info()).patterns == stored
        stored += await fill_up(many)
        fill_the_rest(small_disk / "third")
        await many.query(images(1))
        assert (await many.info()).patterns == stored
        await client.delete_memory("many")
        again = await client.create_memory("again", model="tiny")
        await again.store(images(EACH), payloads=[bytes(1 << 16)] * EACH)


def fill_the_rest(file: Path) -> None:
    """Leave no byte of the disk."""
    with file.open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(1 << 12)):
                pass
        except OSError:
            return
