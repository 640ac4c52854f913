"""How much slower does one tenant get while another floods the shard at 10 times its share?

One shard in a process of its own, two namespaces of 64 memories of `glyphs-28`, queries of 8 patterns through the SDK
on loopback. The capacity is what one tenant alone gets answered; the share of each is half of it. The quiet tenant asks
for half of its share, at random times that do not depend on answers; a query's time runs from the moment it was due.
The other one is silent, or asks for its own share, or for 10 times that, over 3 connections from another process, which
has the lowest priority: a tenant's own work would be done on a machine of its own. The three take turns, and figures
are medians of the rounds.

With `--beside NAME` four namespaces ask for one store and one query in turn, alone and then beside a client that asks
for what takes long: see `_beside.py` for the names. `--size` is how large that is, 1.0 by default. Results are kept in
`results/bench_fairness_NAME.json`. `--beside quota` is the same client below its quota and at it, in turns.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.abc
import numpy as np
from _beside import LOADS as BESIDE
from _beside import Beside
from _processes import Steered
from _report import Result, report
from _shards import Shards
from numpy.typing import NDArray

import attractor
from attractor_server.identity.quotas import LOOK_EVERY_S
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

MODEL, MEMORIES, PATTERNS = "glyphs-28", 64, 8
ROUNDS, ROUND_S, SETTLE_S = 5, 4.0, 1.5
UNANSWERED_LIMIT = 2048
"""Queries that the flooding client has under way: twice the patterns for which it has room in the shard"""
SPEC = ShardSpec(bank_bytes=512 << 20)
Images: TypeAlias = NDArray[np.float32]
IMAGES: Images = np.random.default_rng(0).random((64, 28, 28), dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--beside", choices=BESIDE)
    parser.add_argument("--size", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    if given.beside == "quota":
        beside_a_quota(given.size, given.seconds)
    elif given.beside:
        beside(given.beside, given.size, given.seconds)
    else:
        beside_a_flood()


def beside_a_flood() -> None:
    with Shards(SPEC, 1) as shards, Flooder(shards.addresses[0]) as flooder:
        times, answered = anyio.run(time_beside, shards.addresses[0], flooder)
    alone, beside, flooded = (times[load] for load in LOADS)
    share, got = (float(np.median(answered[load])) for load in ("its share", "a flood"))
    name = f"queries of {PATTERNS} beside a flood"
    report(
        [
            row(f"{name}, p99", "µs", percentile(99, flooded), "alone", percentile(99, alone)),
            row(f"{name}, p50", "µs", percentile(50, flooded), "alone", percentile(50, alone)),
            row(f"{name}, p99", "µs", percentile(99, flooded), "beside one within its share", percentile(99, beside)),
            row("answered to who floods", "patterns/s", got, "to the same within its share", share),
        ]
    )


def beside(name: str, size: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder, Shards(replace(SPEC, store_uri=uri_of(Path(folder))), 1) as shards:
        address = shards.addresses[0]
        with Beside(name, address, Path(folder), size) as load:
            alone = anyio.run(in_turn, address, "alone", seconds)
            load.start()
            there = anyio.run(in_turn, address, "there", seconds)
            print(f"{name} of size {size:g}: done {load.count_repetitions()} times", flush=True)
    results = [
        row(f"{kind} beside {name}, {figure}", "µs", one(there[kind]) * 1e6, "alone", one(alone[kind]) * 1e6)
        for kind in ("queries", "stores")
        for figure, one in FIGURES.items()
    ]
    report(results, kept=Path(sys.argv[0]).parent / "results" / f"bench_fairness_{name}.json")


QUOTA = """
[[quota]]
namespace = "beside"
memories = 1
items = 32
patterns_per_s = 20
"""


def beside_a_quota(size: float, seconds: float) -> None:
    """Compare the times beside a client that is at its quota with those beside the same client below it."""
    with tempfile.TemporaryDirectory() as folder:
        quotas = Path(folder) / "quotas.toml"
        quotas.touch()
        spec = replace(SPEC, store_uri=uri_of(Path(folder) / "data"), quotas=quotas)
        below, at = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
        with Shards(spec, 1) as shards, Beside("quota", shards.addresses[0], Path(folder), size) as load:
            load.start()
            for turn in range(QUOTA_TURNS):
                for text, times in (("", below), (QUOTA, at))[:: 1 if turn % 2 else -1]:
                    quotas.write_text(text)
                    time.sleep(LOOK_EVERY_S + SETTLE_S)
                    found = anyio.run(in_turn, shards.addresses[0], f"{turn}{len(text)}", seconds / QUOTA_TURNS)
                    for kind, seen in found.items():
                        times[kind].extend(seen)
            print(f"quota of size {size:g}: done {load.count_repetitions()} times", flush=True)
    results = [
        row(f"{kind} beside one at its quota, {figure}", "µs", one(at[kind]) * 1e6, "below it", one(below[kind]) * 1e6)
        for kind in ("queries", "stores")
        for figure, one in FIGURES.items()
    ]
    report(results, kept=Path(sys.argv[0]).parent / "results" / "bench_fairness_quota.json")


QUOTA_TURNS = 4
"""Times that the client goes to its quota and below it again"""


FIGURES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "p50": lambda times: float(np.percentile(times, 50)),
    "p99": lambda times: float(np.percentile(times, 99)),
    "worst": max,
}


async def in_turn(address: str, name: str, seconds: float) -> Mapping[str, Sequence[float]]:
    """Return the seconds of stores and queries of four namespaces, each of which asks again at once."""
    times: dict[str, list[float]] = {"queries": [], "stores": []}

    async def ask(namespace: str) -> None:
        async with attractor.connect(address, timeout_s=60) as client:
            memory = await client.create_memory(
                f"{namespace}/{name}", model=MODEL, when_full="forget", page_patterns=16
            )
            await memory.store(IMAGES[:1])
            end_s = time.perf_counter() + seconds
            while time.perf_counter() < end_s:
                for kind, call in (("stores", memory.store), ("queries", memory.query)):
                    started_s = time.perf_counter()
                    await call(IMAGES[:1])
                    times[kind].append(time.perf_counter() - started_s)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(ask, f"n{number}")
    return times


def row(name: str, unit: str, ours: float, peer: str, theirs: float) -> Result:
    return Result(name=name, unit=unit, ours=ours, peer=peer, theirs=theirs)


LOADS = {"silence": 0.0, "its share": 1.0, "a flood": 10.0}
"""Load of the other tenant, in shares"""


def percentile(percent: float, rounds: Sequence[NDArray[np.float64]]) -> float:
    """Return µs of times in seconds: the median over rounds, so that other work of the machine matters little."""
    return float(np.median([np.percentile(times, percent) for times in rounds])) * 1e6


async def time_beside(
    address: str, flooder: "Flooder"
) -> tuple[dict[str, list[NDArray[np.float64]]], dict[str, list[float]]]:
    """Return seconds of the quiet tenant's queries beside each load, and answered patterns a second of the other."""
    times: dict[str, list[NDArray[np.float64]]] = {load: [] for load in LOADS}
    answered: dict[str, list[float]] = {load: [] for load in LOADS}
    async with tenant(address, "quiet") as quiet:
        for _ in range(ROUNDS):
            capacity = await capacity_of(quiet)  # anew each time, since other work on the machine comes and goes
            print(f"capacity: {capacity:,.0f} patterns/s", flush=True)
            for load, shares in LOADS.items():
                flooder.start(shares * capacity / 2)
                await anyio.sleep(SETTLE_S)
                times[load].append(await open_loop(quiet, capacity / 4, ROUND_S))
                answered[load].append(await anyio.to_thread.run_sync(flooder.stop))
                await anyio.sleep(SETTLE_S)
    return times, answered


class Tenant:
    """Memories of one namespace with patterns in them, queried in turn."""

    def __init__(self, memories: Sequence[attractor.AsyncMemory]) -> None:
        self._memories = memories

    async def ask(self, n: int) -> None:
        """Send the n-th query."""
        start = n % (len(IMAGES) - PATTERNS)
        await self._memories[n % len(self._memories)].query(IMAGES[start : start + PATTERNS])


@asynccontextmanager
async def tenant(address: str, namespace: str) -> AsyncIterator[Tenant]:
    async with attractor.connect(address) as client:
        memories = [await client.create_memory(f"{namespace}/{n}", model=MODEL) for n in range(MEMORIES)]
        for memory in memories:
            await memory.store(IMAGES[:PATTERNS])
        yield Tenant(memories)


async def capacity_of(asked: Tenant) -> float:
    """Return the answered patterns a second of callers who ask again at once."""
    counted = 0
    end_s = time.perf_counter() + 2.0

    async def call(caller: int) -> None:
        nonlocal counted
        n = caller
        while time.perf_counter() < end_s:
            await asked.ask(n)
            n += 64
            counted += PATTERNS

    started_s = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for caller in range(64):
            tasks.start_soon(call, caller)
    return counted / (time.perf_counter() - started_s)


async def open_loop(asked: Tenant, rate: float, seconds: float) -> NDArray[np.float64]:
    """Return the seconds from each query's due time to its answer, at so many patterns a second."""
    random = np.random.default_rng()
    due_s = time.perf_counter() + np.cumsum(random.exponential(PATTERNS / rate, int(seconds * rate / PATTERNS)))
    times: list[float] = []

    async def one(n: int) -> None:
        await asked.ask(n)
        times.append(time.perf_counter() - due_s[n])

    async with anyio.create_task_group() as tasks:
        for n, at_s in enumerate(due_s):
            if (wait_s := at_s - time.perf_counter()) > 0:
                await anyio.sleep(wait_s)
            tasks.start_soon(one, n)
    return np.array(times)


class Flooder(Steered):
    """Other tenant, in a process of its own."""

    def __init__(self, address: str) -> None:
        super().__init__(flood, address)

    def start(self, rate: float) -> None:
        """Begin to ask for so many patterns a second."""
        self._pipe.send(rate)

    def stop(self) -> float:
        """Stop asking, drop requests under way, and return the answered patterns a second."""
        self._pipe.send(None)
        return float(self._pipe.recv())


def flood(address: str, pipe: Connection) -> None:
    os.nice(19)
    anyio.run(serve_floods, address, pipe)


async def serve_floods(address: str, pipe: Connection) -> None:
    async with (
        tenant(address, "loud") as first,
        tenant(address, "loud") as second,
        tenant(address, "loud") as third,
    ):
        pipe.send(None)
        while True:
            rate = await anyio.to_thread.run_sync(pipe.recv)
            pipe.send(await run_flood((first, second, third), rate, pipe))


async def run_flood(tenants: Sequence[Tenant], rate: float, pipe: Connection) -> float:
    """Return the answered patterns a second, once the other end says stop."""
    answered = under_way = due = 0
    started_s = time.perf_counter()

    async def one(n: int) -> None:
        nonlocal answered, under_way
        await tenants[n % len(tenants)].ask(n)
        answered += 1
        under_way -= 1

    async with anyio.create_task_group() as tasks:
        while not pipe.poll():
            await anyio.sleep(0.002)
            upto = int((time.perf_counter() - started_s) * rate / PATTERNS)
            for n in range(due, upto):
                if under_way < UNANSWERED_LIMIT:
                    under_way += 1
                    tasks.start_soon(one, n)
            due = upto
        pipe.recv()
        took_s = time.perf_counter() - started_s
        tasks.cancel_scope.cancel()
    return answered * PATTERNS / took_s


if __name__ == "__main__":
    main()
