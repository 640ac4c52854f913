"""How many memories fit in a machine, and how much do the others cost?

`embedding-384`, whose page takes 66,560 bytes as float32; one thread. First, how far the process grows with memories
that stay in the bank, beside the bytes of their pages alone. Then 100,000 memories of one pattern each on a bank for
5,000: Zipf-distributed queries and stores in batches through the engine, among which lone queries are timed, apart by
whether their page was in the bank. Cold pages come from a file that the system may still have in its memory; "from the
disk" is after it was made to forget that.

Takes 7 GB of disk in the system's folder for temporary files. Smaller:

    python benchmarks/bench_density.py --memories 10000 --turns 50
"""

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import torch
from _report import Result, report
from numpy.typing import NDArray

from attractor_server.energy.model import Model
from attractor_server.engine.engine import Engine
from attractor_server.engine.pages.precision import Precision, page_bytes
from attractor_server.engine.pages.spill import Residency
from attractor_server.errors import ServerError
from attractor_server.memories.catalog import Catalog
from attractor_server.memories.ledger import Applied
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.settings import MemorySettings, WriteMode
from attractor_server.model_registry import load_models
from attractor_server.scheduling.jobs import Job, Operation

MODEL, CLIENT, GIB = "embedding-384", "bench", 1 << 30
RESIDENT, WARMING, BATCH = 6000, 512, 256
MEMORIES_A_PLACE, EXPONENT = 20, 1.0
STORES, LONE, FROM_DISK = 8, 16, 1000
PATTERNS_LIMIT = 1 << 20
"""Patterns of a page: so many that no memory gets a second page"""
Floats = NDArray[np.float32]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--memories", type=int, default=100_000)
    arguments.add_argument("--turns", type=int, default=250, help="of a batch of queries, one of stores, lone queries")
    given = arguments.parse_args()
    count = min(RESIDENT, given.memories)
    kinds: list[tuple[int, Precision, WriteMode]] = [
        (count, "float32", "stream"),
        (count, "float32", "rewrite"),
        (count, "int8", "stream"),
    ]
    # Each in a process of its own: what one has freed would be taken by the next, and not seen.
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        results = pool.starmap(resident, kinds, chunksize=1)
    report([*results, *measure_spills(load(), given.memories, given.turns)])


def load() -> Model:
    """Load the model, for one thread."""
    torch.set_num_threads(1)
    return load_models(None, device=torch.device("cpu"))[MODEL]


@dataclass
class Bench:
    """Engine with memories numbered from 0, as a shard has them."""

    model: Model
    places: int
    write: WriteMode = "stream"
    precision: Precision = "float32"
    folder: Path | None = None
    catalog: Catalog = field(default_factory=Catalog)
    failed: list[ServerError] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = page_bytes(self.precision, self.model.parameters.initial)
        residency = Residency(precision=self.precision, folder=self.folder)
        self._engine = Engine([self.model], bank_bytes=self.places * size, residency=residency)
        self._settings = MemorySettings(write=self.write, page_patterns=PATTERNS_LIMIT)
        self._loop = asyncio.new_event_loop()
        random = np.random.default_rng(0).standard_normal((2048, self.model.layout.size), dtype=np.float32)
        self._patterns: Floats = random / np.linalg.norm(random, axis=1, keepdims=True)

    def record(self, number: int) -> MemoryRecord:
        """Return the memory of that number, created on first use."""
        return self.catalog.create(
            f"bench/{number}", model=MODEL, model_digest=self.model.digest, settings=self._settings
        )

    def job(self, operation: Operation, number: int, patterns: int = 1) -> Job:
        """Return a job with patterns of the memory's own."""
        start = number % (len(self._patterns) - patterns)
        return Job(
            operation=operation,
            memory=self.record(number),
            future=self._loop.create_future(),
            values=self._patterns[start : start + patterns],
            steps=self.model.steps if operation is Operation.QUERY else 0,
        )

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs in one batch, and note those that fail."""
        self.failed += [outcome for outcome in self._engine.run(jobs) if isinstance(outcome, ServerError)]

    def store(self, numbers: Sequence[int], patterns: int = 1) -> None:
        """Store patterns in each memory, numbered, in batches, with a ledger as in a shard."""
        for start in range(0, len(numbers), BATCH):
            jobs = [self.job(Operation.STORE, number, patterns) for number in numbers[start : start + BATCH]]
            self.run(jobs)
            for job in jobs:
                memory = job.memory
                told = Applied(memory.version, memory.patterns, erases=False)
                memory.ledger(CLIENT).settle(memory.version, told)

    def time_query(self, number: int) -> float:
        """Return the seconds that a lone query takes."""
        jobs = [self.job(Operation.QUERY, number)]
        started_s = time.perf_counter()
        self.run(jobs)
        return time.perf_counter() - started_s

    def cold(self, number: int) -> bool:
        """Return whether the memory's page has left the bank."""
        (page,) = self.record(number).pages
        return not page.place


def resident(count: int, precision: Precision, write: WriteMode) -> Result:
    """Measure memories of four patterns in a GiB of the process, beside the number of pages alone that would fill it.

    Where they are rewritten, a page is its weights and the patterns that it keeps until it is full.
    """
    model = load()
    bench = Bench(model, count + WARMING, write=write, precision=precision)
    bench.store(range(WARMING), patterns=4)
    before = resident_bytes()
    bench.store(range(WARMING, WARMING + count), patterns=4)
    grown = (resident_bytes() - before) / count
    page = page_bytes(precision, model.parameters.initial)
    if write == "rewrite":
        page += 4 * model.layout.size * np.float32().nbytes
    return Result(
        name=f"resident, {precision}, {write}",
        unit="memories/GiB",
        ours=GIB / grown,
        peer="their pages alone",
        theirs=GIB / page,
    )


def resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def measure_spills(model: Model, memories: int, turns: int) -> Iterator[Result]:
    """Measure the cost of a cold memory, beside a warm one."""
    places = memories // MEMORIES_A_PLACE
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(model, places, folder=Path(folder))
        started_s = time.perf_counter()
        bench.store(range(memories))
        print(f"{memories:,} memories made in {time.perf_counter() - started_s:,.0f} s, on {places:,} places")
        synchronise(Path(folder), forget=False)
        warm, cold = under_load(bench, memories, turns)
        synchronise(Path(folder), forget=True)
        numbers = np.random.default_rng(2).permutation(memories).tolist()
        from_disk = [bench.time_query(number) for number in numbers[:FROM_DISK] if bench.cold(number)]
    if bench.failed:
        raise SystemExit(f"{len(bench.failed)} requests failed, the first: {bench.failed[0]}")
    print(f"of {len(warm) + len(cold):,} lone queries {len(cold):,} were cold; no request failed")
    share = f"{memories:,} memories on {places:,} places"
    usual = 1e6 * float(np.median(warm))
    for name, times in (("cold query", cold), ("cold query, from the disk", from_disk)):
        for part in (50, 99):
            figure = 1e6 * float(np.percentile(times, part))
            yield Result(
                name=f"{name}, p{part}", unit=f"µs, {share}", ours=figure, peer="warm query, p50", theirs=usual
            )
    figure = 1e6 * float(np.percentile(warm, 99))
    yield Result(name="warm query, p99", unit=f"µs, {share}", ours=figure, peer="warm query, p50", theirs=usual)


def under_load(bench: Bench, memories: int, turns: int) -> tuple[list[float], list[float]]:
    """Return the seconds of lone queries to warm and to cold memories, among batches of queries and of stores."""
    random, warm, cold = np.random.default_rng(1), list[float](), list[float]()
    names = random.permutation(memories)
    share = 1 / np.arange(1, memories + 1) ** EXPONENT
    drawn = random.choice(names, size=(turns, BATCH + STORES + LONE), p=share / share.sum()).tolist()
    for turn in drawn:
        bench.run([bench.job(Operation.QUERY, number) for number in turn[:BATCH]])
        bench.store(list(dict.fromkeys(turn[BATCH:-LONE])))
        for number in turn[-LONE:]:
            (cold if bench.cold(number) else warm).append(bench.time_query(number))
    return warm, cold


def synchronise(folder: Path, *, forget: bool) -> None:
    """Wait until the disk has all files of the folder; if asked, have the next read come from the disk."""
    for path in folder.iterdir():
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        if forget:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


if __name__ == "__main__":
    main()
