"""How much does it cost that kept patterns take part in answers?

One shard with a store, in a process of its own, and queries through the SDK on loopback, in turns with kept patterns
and without. At once: 256 memories of 32 patterns, one cue each, until all are answered; and the processor time of the
shard. Alone: one query after another of memories with 32, 1,024 and 4,096 patterns, by the median. Cues are stored
patterns with noise.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import anyio
import numpy as np
from _report import Result, report
from _shards import Shards
from numpy.typing import NDArray

import attractor
from attractor_server.model_registry import load_models
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

MODELS = ("embedding-384", "glyphs-28-small")
MEMORIES, PATTERNS, SIZES = 256, 32, (32, 1024, 4096)
ROUNDS, LONE = 20, 100
NOISE = 0.1
"""Of a pattern's root mean square"""
Patterns = NDArray[np.float32]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        spec = ShardSpec(bank_bytes=512 << 20, store_uri=uri_of(Path(folder)), warm_up=False)
        with Shards(spec, 1) as shards:
            report([line for model in MODELS for line in anyio.run(measure, shards, model)])


def draw(model: str, count: int, seed: int) -> Patterns:
    """Draw unit vectors, or dark images."""
    random = np.random.default_rng(seed)
    layout = load_models(None, device="cpu")[model].layout
    if layout.fields[0].kind == "vector":
        drawn = random.standard_normal((count, layout.size))
        return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)
    return np.asarray(random.random((count, *layout.fields[0].shape)) ** 3, np.float32)


def distort(values: Patterns) -> Patterns:
    """Return the patterns with noise."""
    noise = np.random.default_rng(0).standard_normal(values.shape)
    return np.asarray(np.clip(values + NOISE * np.sqrt(np.square(values).mean()) * noise, -1, 1), np.float32)


async def measure(shards: Shards, model: str) -> Sequence[Result]:
    """Return what queries of a model cost with kept patterns and without."""
    async with attractor.connect(shards.addresses[0], timeout_s=120) as client:
        several = list[tuple[attractor.AsyncMemory, Patterns]]()
        for number in range(MEMORIES):
            stored = draw(model, PATTERNS, number)
            memory = await client.create_memory(f"{model}/{number}", model=model)
            await memory.store(stored)
            several.append((memory, distort(stored[number % PATTERNS])))
        walls, works = await at_once(shards, several)
        lines = [
            line(f"{model}: {MEMORIES} memories × 1", walls),
            line(f"{model}: {MEMORIES} memories × 1, processor", works),
        ]
        for size in SIZES:
            stored = draw(model, size, 1000)
            memory = await client.create_memory(f"{model}/of-{size}", model=model)
            for start in range(0, size, 512):
                await memory.store(stored[start : start + 512])
            lines.append(line(f"{model}: alone, {size:,} patterns", await alone(memory, distort(stored[7]))))
    return lines


def line(name: str, took_s: dict[bool, float]) -> Result:
    """Return a line in microseconds."""
    return Result(name=name, unit="µs", ours=took_s[True] * 1e6, peer="the network alone", theirs=took_s[False] * 1e6)


async def at_once(
    shards: Shards, asked: Sequence[tuple[attractor.AsyncMemory, Patterns]]
) -> tuple[dict[bool, float], dict[bool, float]]:
    """Return seconds a query, and seconds of the shard's processor, with kept patterns and without."""
    walls: dict[bool, list[float]] = {True: [], False: []}
    works: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for kept in (True, False):
            before_s, work_s = time.perf_counter(), shards.cpu_s()
            async with anyio.create_task_group() as group:
                for memory, cue in asked:
                    group.start_soon(ask, memory, cue, kept)
            walls[kept].append((time.perf_counter() - before_s) / len(asked))
            works[kept].append((shards.cpu_s() - work_s) / len(asked))
    return _medians(walls), _medians(works)


async def alone(memory: attractor.AsyncMemory, cue: Patterns) -> dict[bool, float]:
    """Return seconds of a query that nothing else is beside, with kept patterns and without."""
    took: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(LONE):
        for kept in (True, False):
            before_s = time.perf_counter()
            await ask(memory, cue, kept)
            took[kept].append(time.perf_counter() - before_s)
    return _medians(took)


async def ask(memory: attractor.AsyncMemory, cue: Patterns, kept: bool) -> None:
    """Query the memory."""
    recall = await memory.query(cue, kept=kept)
    assert (recall.probability is not None) is kept


def _medians(took: dict[bool, list[float]]) -> dict[bool, float]:
    return {kept: median(times[len(times) // 10 :]) for kept, times in took.items()}


if __name__ == "__main__":
    main()
