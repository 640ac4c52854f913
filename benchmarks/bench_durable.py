"""How much does durability cost?

64 callers, each storing one pattern after another in a memory of its own of `embedding-384`, over SDK and server on
loopback: with a store on disk, and without one. Beside it how often the disk synchronises a write, the bytes that a
pattern takes there, and how long a memory's first query takes after a restart, against its second, by what it holds.
"""

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
from _report import Result, report
from _shards import Shards
from numpy.typing import NDArray

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

CALLERS, SECONDS = 64, 8.0
MODEL, ENTRIES = "embedding-384", 384
HELD = (1, 8, 31, 256, 2048)
"""Patterns in the memories after a restart"""
SPEC = ShardSpec(warm_up=False)
Vectors = NDArray[np.float32]


def main() -> None:
    vectors = np.random.default_rng(0).standard_normal((max(HELD), ENTRIES), dtype=np.float32)
    build = Path("build")
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as folder:  # not in the memory that some systems have for such
        kept, data = replace(SPEC, store_uri=uri_of(Path(folder).resolve())), Path(folder)
        without, _ = stores(SPEC, vectors)
        stored, count = stores(kept, vectors)
        bytes_each = sum(path.stat().st_size for path in data.iterdir()) / count
        synchronised = count_synchronised_writes(data / "probe", ENTRIES * vectors.itemsize)
        back = time_restart(kept, vectors)
    job = f"single stores, {CALLERS} callers"
    report(
        [
            Result(name=job, unit="stores/s", ours=stored, peer="nothing kept", theirs=without),
            Result(name=job, unit="stores/s", ours=stored, peer="fdatasync of one pattern", theirs=synchronised),
            Result(name="bytes on disk", unit="B/pattern", ours=bytes_each, peer="float32", theirs=4 * ENTRIES),
            *(
                Result(name=f"first query, {held} patterns", unit="µs", ours=first, peer="second query", theirs=second)
                for held, (first, second) in back.items()
            ),
        ]
    )


def stores(spec: ShardSpec, vectors: Vectors) -> tuple[float, int]:
    """Return stores a second, and their number."""
    with Shards(spec, 1) as shards:
        count = anyio.run(_store, shards.addresses[0], vectors)
    return count / SECONDS, count


async def _store(address: str, vectors: Vectors) -> int:
    count = 0

    async def work(memory: attractor.AsyncMemory) -> None:
        nonlocal count
        while time.perf_counter() < end_s:
            await memory.store(vectors[count % len(vectors)])
            count += 1

    async with attractor.connect(address, timeout_s=60) as client:
        memories = [await client.create_memory(f"bench/{n}", model=MODEL) for n in range(CALLERS)]
        end_s = time.perf_counter() + SECONDS
        async with anyio.create_task_group() as tasks:
            for memory in memories:
                tasks.start_soon(work, memory)
    return count


def count_synchronised_writes(path: Path, size: int) -> float:
    """Return writes a second that the disk confirms, one after another."""
    file, count = os.open(path, os.O_WRONLY | os.O_CREAT), 0
    end_s = time.perf_counter() + 2
    while time.perf_counter() < end_s:
        os.pwrite(file, bytes(size), count * size)
        os.fdatasync(file)
        count += 1
    os.close(file)
    return count / 2


def time_restart(spec: ShardSpec, vectors: Vectors) -> Mapping[int, tuple[float, float]]:
    """Return microseconds of the first and of the second query after a restart, by the patterns of the memory."""
    with Shards(spec, 1) as shards:
        anyio.run(_fill, shards.addresses[0], vectors)
    with Shards(spec, 1) as shards:
        return anyio.run(_ask, shards.addresses[0], vectors)


async def _fill(address: str, vectors: Vectors) -> None:
    async with attractor.connect(address, timeout_s=60) as client:
        for held in HELD:
            memory = await client.create_memory(f"held/{held}", model=MODEL)
            for start in range(0, held, 64):
                await memory.store(vectors[start : min(start + 64, held)])
        await client.create_memory("held/none", model=MODEL)


async def _ask(address: str, vectors: Vectors) -> Mapping[int, tuple[float, float]]:
    times = {}
    async with attractor.connect(address, timeout_s=60) as client:
        await client.memory("held/none").query(vectors[0])  # what a program costs when it first runs
        for held in HELD:
            memory = client.memory(f"held/{held}")
            seen = []
            for _ in range(2):
                started_s = time.perf_counter()
                await memory.query(vectors[0])
                seen.append((time.perf_counter() - started_s) * 1e6)
            times[held] = (seen[0], seen[1])
    return times


if __name__ == "__main__":
    main()
