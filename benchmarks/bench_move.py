"""How long does a memory not answer while it moves to another shard?

A shard with 1,000 memories of `binary-128` hands all of them to another one, takes them back, and so on. 64 callers ask
one memory each, all the time, and 16 more go round the others. A memory's pause is the longest time between two of its
answers around a move. Beside it the same around as long a time in which nothing moves.
"""

import itertools
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
import numpy as np
from _report import Result, report
from _shards import Shards
from anyio.abc import TaskGroup
from numpy.typing import NDArray

import attractor
from attractor_proto.names import SLOTS
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology
from attractor_server.storage.backends.sqlite_backend import uri_of

MODEL, ENTRIES = "binary-128", 128
MEMORIES, WATCHED, OTHERS = 1000, 64, 16
MOVES, APART_S = 10, 1.0
TARGET_MS = 200.0
QUICK = attractor.Retry(first_delay_s=0.01, limit_delay_s=0.1)
SPEC = ShardSpec()
Times: TypeAlias = NDArray[np.float64]


def main() -> None:
    build = Path("build")
    build.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=build) as folder,
        Shards(replace(SPEC, store_uri=uri_of(Path(folder).resolve())), 2) as pair,
    ):
        moved, still, took_ms = anyio.run(measure_moves, pair)
    shares = (("p50", 0.5), ("p99", 0.99))
    report(
        [
            *(
                Result(name=f"pause of a memory, {name}", unit="ms", ours=ours, peer="nothing moves", theirs=theirs)
                for (name, share) in shares
                for ours, theirs in [(float(np.quantile(moved, share)), float(np.quantile(still, share)))]
            ),
            Result(
                name="pause of a memory, p99",
                unit="ms",
                ours=float(np.quantile(moved, 0.99)),
                peer="target",
                theirs=TARGET_MS,
            ),
            Result(
                name=f"move of {MEMORIES:,} memories",
                unit="ms",
                ours=float(np.median(took_ms)),
                peer="target of a pause",
                theirs=TARGET_MS,
            ),
        ]
    )


@dataclass
class Watched:
    """Memory that is queried again as soon as it answers, with the times of its answers on `perf_counter`."""

    memory: attractor.AsyncMemory
    answers_s: list[float] = field(default_factory=list)

    async def ask(self, vector: NDArray[np.float32]) -> None:
        """Query until cancelled."""
        while True:
            await self.memory.query(vector)
            self.answers_s.append(time.perf_counter())

    def pause_ms(self, began_s: float, ended_s: float) -> float:
        """Return the longest time between two answers, of pairs that are not both before or both after the period."""
        pairs = itertools.pairwise(self.answers_s)
        return 1e3 * max(after - before for before, after in pairs if after > began_s and before < ended_s)


async def measure_moves(pair: Shards) -> tuple[Times, Times, Sequence[float]]:
    """Measure pauses of watched memories in moves and without, and the times of the moves, in milliseconds."""
    moved: list[float] = []
    still: list[float] = []
    took_ms: list[float] = []
    async with (
        attractor.connect(pair.addresses[0], timeout_s=60, retry=QUICK) as client,
        anyio.create_task_group() as tasks,
    ):
        await assign_slots(pair, epoch=2, owner=0)
        watched = await start_callers(client, tasks)
        for number in range(MOVES):
            await anyio.sleep(APART_S)
            pauses, took_s = await around(watched, assign_slots(pair, epoch=number + 3, owner=(number + 1) % 2))
            moved += pauses
            took_ms.append(1e3 * took_s)
            await anyio.sleep(APART_S)
            still += (await around(watched, anyio.sleep(took_s)))[0]
        tasks.cancel_scope.cancel()
    return np.array(moved), np.array(still), took_ms


async def start_callers(client: attractor.AsyncClient, tasks: TaskGroup) -> Sequence[Watched]:
    """Create all memories with patterns, and start to query each; return those that are queried all the time."""
    vector = np.random.default_rng(0).integers(0, 2, ENTRIES).astype(np.float32)
    memories: list[attractor.AsyncMemory] = []

    async def make(number: int) -> None:
        memory = await client.create_memory(f"bench/{number}", model=MODEL)
        await memory.store(vector)
        memories.append(memory)

    async with anyio.create_task_group() as makers:
        for number in range(MEMORIES):
            makers.start_soon(make, number)
    watched, rest = [Watched(memory) for memory in memories[:WATCHED]], itertools.cycle(memories[WATCHED:])
    for one in watched:
        tasks.start_soon(one.ask, vector)
    for _ in range(OTHERS):
        tasks.start_soon(ask_round, rest, vector)
    return watched


async def ask_round(memories: Iterator[attractor.AsyncMemory], vector: NDArray[np.float32]) -> None:
    for memory in memories:
        await memory.query(vector)


async def assign_slots(pair: Shards, *, epoch: int, owner: int) -> None:
    """Make one shard the owner of all slots, and wait until it is."""
    topology = Topology(epoch, pair.infos, np.full(SLOTS, owner, np.int32))
    await anyio.to_thread.run_sync(pair.learn, topology)


async def around(watched: Sequence[Watched], work: Awaitable[None]) -> tuple[Sequence[float], float]:
    """Return the pause of each memory, and the time of the work."""
    await all_answer(watched)
    began_s = time.perf_counter()
    await work
    ended_s = time.perf_counter()
    await all_answer(watched)
    return [one.pause_ms(began_s, ended_s) for one in watched], ended_s - began_s


async def all_answer(watched: Sequence[Watched]) -> None:
    """Wait until each memory has answered twice."""
    wanted = [len(one.answers_s) + 2 for one in watched]
    while any(len(one.answers_s) < count for one, count in zip(watched, wanted, strict=True)):  # noqa: ASYNC110
        await anyio.sleep(0.01)  # callers have no more to do than to ask


if __name__ == "__main__":
    main()
