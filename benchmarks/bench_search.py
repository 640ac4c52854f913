"""How long does a lone search take in one memory of many items, beside a plain product with all its vectors?

Vectors with an id, a small payload and a text each, in one durable shard, over the SDK on loopback; medians of lone
calls. The peer is numpy's float32 product of a cue with the same vectors in this process, and the ten largest of it:
no less can be done without an index, and nothing is read, filtered or sent there. Bar (issue 24): 5 ms at 10,000 items
of a usual host.

    python benchmarks/bench_search.py --items 10000
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
PAGE, TOGETHER, WORDS = 32, 512, 12
TIMES = 32
"""Calls of each kind"""
K = 10
Vectors = NDArray[np.float32]
Asked = Callable[[int], Awaitable[object]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--items", type=int, default=10_000)
    count = arguments.parse_args().items
    build = Path("build")
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as folder:
        spec = ShardSpec(warm_up=False, store_uri=uri_of(Path(folder).resolve()))
        with Shards(spec, 1) as shards:
            times, product = anyio.run(measure, shards.addresses[0], count)
    peer = f"numpy: product with all {count:,}"
    report([Result(name=name, unit="µs", ours=taken, peer=peer, theirs=product) for name, taken in times.items()])


def draw(random: np.random.Generator, count: int) -> Vectors:
    """Draw unit vectors."""
    drawn = random.standard_normal((count, ENTRIES), dtype=np.float32)
    normal: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return normal


async def measure(address: str, count: int) -> tuple[Mapping[str, float], float]:
    """Return the median times of calls on a memory of so many items, and of a product, in microseconds."""
    random = np.random.default_rng(0)
    vectors = draw(random, count)
    words = [" ".join(f"word{n}" for n in random.zipf(1.3, WORDS) % 5000) for _ in range(count)]
    async with attractor.connect(address, timeout_s=600) as client:
        memory = await client.create_memory("bench", model=MODEL, page_patterns=PAGE)
        for start in range(0, count, TOGETHER):
            some = slice(start, start + TOGETHER)
            numbers = range(count)[some]
            payloads = [{"n": n, "kind": "note" if n % 10 else "task"} for n in numbers]
            await memory.store(vectors[some], ids=[f"i{n}" for n in numbers], payloads=payloads, texts=words[some])
        cues = vectors[random.integers(count, size=TIMES)] + 0.02 * draw(random, TIMES)
        calls: Mapping[str, Asked] = {
            "search": lambda n: memory.search(cues[n], k=K),
            "search by the cue": lambda n: memory.search(cues[n], k=K, by="cue"),
            "search of a filter": lambda n: memory.search(cues[n], k=K, filter={"kind": "task"}),
            "search by cue and words": lambda n: memory.search(cues[n], k=K, words=f"word{7 * n} word{9 * n}"),
            "search by words": lambda n: memory.search(words=f"word{7 * n} word{9 * n}", k=K),
            "query with 10 matches": lambda n: memory.query(cues[n], match=K),
        }
        times = {name: await time_calls(call) for name, call in calls.items()}

        async def multiply(n: int) -> None:
            np.argpartition(vectors @ cues[n], -K)[-K:]

        return times, await time_calls(multiply)


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
