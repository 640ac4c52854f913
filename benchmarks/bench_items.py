"""Cost of one more item in a large memory, and of asking for some.

Memories of 96 and of `--items` items, vectors with an id and a small payload each, in one durable shard, over the SDK
on loopback; medians of lone calls. A store costs at most 1.3 × as much in the large memory (issue 24).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import numpy as np
from _report import Result, report
from _shards import Shards
from numpy.typing import NDArray

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

MODEL, ENTRIES = "embedding-384", 384
PAGE, FEW, TOGETHER = 32, 96, 512
TIMES = PAGE
"""Calls of each kind: a store costs what its page holds, and both memories fill one from its start"""
Vectors = NDArray[np.float32]
Asked = Callable[[int], Awaitable[object]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--items", type=int, default=100_000)
    many = arguments.parse_args().items // PAGE * PAGE
    build = Path("build")
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as folder:
        spec = ShardSpec(warm_up=False, store_uri=uri_of(Path(folder).resolve()))
        with Shards(spec, 1) as shards:
            few, large = anyio.run(measure, shards.addresses[0], FEW), anyio.run(measure, shards.addresses[0], many)
    report(
        [
            Result(name=name, unit="µs", ours=large[name], peer=f"of {FEW} items, not {many:,}", theirs=few[name])
            for name in few
        ]
    )


async def measure(address: str, count: int) -> Mapping[str, float]:
    """Return the median time of each call on a memory of so many items, in microseconds."""
    random = np.random.default_rng(0)
    async with attractor.connect(address, timeout_s=120) as client:
        memory = await client.create_memory(f"bench/{count}", model=MODEL, page_patterns=PAGE)
        for start in range(0, count, TOGETHER):
            numbers = range(start, min(count, start + TOGETHER))
            vectors = random.standard_normal((len(numbers), ENTRIES), dtype=np.float32)
            payloads = [{"n": n, "kind": "note" if n % 10 else "task"} for n in numbers]
            await memory.store(vectors, ids=[f"i{n}" for n in numbers], payloads=payloads)
        new = random.standard_normal((TIMES, ENTRIES), dtype=np.float32)
        calls: Mapping[str, Asked] = {
            "store a new item": lambda n: memory.store(new[n], ids=f"a{n}"),
            "store, replace: a new id": lambda n: memory.store(new[n], ids=f"b{n}", on_conflict="replace"),
            "store, replace: an old id": lambda n: memory.store(new[n], ids=f"i{n}", on_conflict="replace"),
            "get by id": lambda n: memory.items.get(f"i{n * count // TIMES}"),
            "list 100": lambda n: take(memory, 100),
            "list 10 of a filter": lambda n: take(memory, 10, where={"kind": "task"}),
            "erase by id": lambda n: memory.items.erase(f"a{n}"),
        }
        return {name: await time_calls(call) for name, call in calls.items()}


async def take(memory: attractor.AsyncMemory, count: int, where: attractor.Filter | None = None) -> None:
    """List so many items, the first ones."""
    async for _ in memory.items.list(where=where, page_size=count):
        count -= 1
        if not count:
            return


async def time_calls(call: Asked) -> float:
    """Return the median time of calls, one after another, in microseconds."""
    times = list[float]()
    for number in range(TIMES):
        started_s = time.perf_counter()
        await call(number)
        times.append(time.perf_counter() - started_s)
    return 1e6 * statistics.median(times)


if __name__ == "__main__":
    main()
