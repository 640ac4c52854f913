"""How much does a second shard bring, and does placement keep 10,000 of them in balance while little moves?

Serving: queries of 16 patterns each to 256 memories of `glyphs-28`, through the SDK on loopback, one thread a shard,
one shard against two, in turns. Client and shards share the machine; the results give each one's processor time.

Placement (`_placing.py`): 100 million memories on 10,000 shards and 2^20 slots, and 1 million on 16 shards and 1,024
slots. Every memory draws its slot; shards come and go, and hot spots are moved away. The peer is rendezvous hashing.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

import anyio
import numpy as np
from _placing import placement_results
from _report import Result, report
from _shards import Shards
from numpy.typing import NDArray

import attractor
from attractor_proto.names import slot_of
from attractor_server.shard.spec import ShardSpec

MODEL, MEMORIES, PATTERNS, CALLERS = "glyphs-28", 256, 16, 128
ROUNDS, ROUND_S = 5, 5.0
# For throughput: large frames, and more waiting than one batch takes, so that a shard never waits for its callers.
SPEC = ShardSpec(bank_bytes=512 << 20, batch_patterns=256, batch_s=0.5, warm_up=False)
Images: TypeAlias = NDArray[np.float32]


def main() -> None:
    with Shards(SPEC, 1) as one, Shards(SPEC, 2) as two:
        single, double = anyio.run(compare, one, two)
    job = f"queries of {PATTERNS} {MODEL} patterns"
    report(
        [
            Result(name=f"{job}, 2 shards", unit="patterns/s", ours=double.rate, peer="1 shard", theirs=single.rate),
            Result(
                name="client's processor time",
                unit="µs a pattern",
                ours=double.client_us,
                peer="shards",
                theirs=double.shards_us,
            ),
            *placement_results(),
        ]
    )


@dataclass(frozen=True)
class Round:
    """Patterns a second, and processor time of client and shards for each."""

    rate: float
    client_us: float
    shards_us: float


async def compare(one: Shards, two: Shards) -> tuple[Round, Round]:
    """Compare one shard and two, in turns; return medians."""
    images = np.random.default_rng(0).random((64, 28, 28), dtype=np.float32)
    async with AsyncExitStack() as stack:
        sides = [(shards, await create_memories(stack, shards, images)) for shards in (one, two)]
        rounds = [
            [await run_queries(shards, memories, images) for shards, memories in sides] for _ in range(ROUNDS + 1)
        ]
    single, double = (median([turn[side] for turn in rounds[1:]]) for side in (0, 1))
    return single, double


async def create_memories(stack: AsyncExitStack, shards: Shards, images: Images) -> Sequence[attractor.AsyncMemory]:
    """Create memories with patterns, of two shards every other one on the second."""
    client = await stack.enter_async_context(attractor.connect(shards.addresses[0]))
    names = [[name for n in range(3 * MEMORIES) if slot_of(name := f"bench/{n}") % 2 == shard] for shard in (0, 1)]
    alternating = [name for pair in zip(*names, strict=False) for name in pair][:MEMORIES]
    memories = [await client.create_memory(name, model=MODEL) for name in alternating]
    async with anyio.create_task_group() as tasks:
        for memory in memories:
            tasks.start_soon(memory.store, images[:8])
    return memories


async def run_queries(shards: Shards, memories: Sequence[attractor.AsyncMemory], images: Images) -> Round:
    """Run a round of queries, from callers that stay with one shard and wait for each answer before the next query."""
    answered = 0
    started_s, client_s, shards_s = time.perf_counter(), time.process_time(), shards.cpu_s()
    end_s = started_s + ROUND_S

    async def call(caller: int) -> None:
        nonlocal answered
        turn = caller
        while time.perf_counter() < end_s:
            await memories[turn % MEMORIES].query(images[turn % 48 :][:PATTERNS])
            turn += CALLERS
            answered += PATTERNS

    async with anyio.create_task_group() as tasks:
        for caller in range(CALLERS):
            tasks.start_soon(call, caller)
    took_s = time.perf_counter() - started_s
    spent = (time.process_time() - client_s, shards.cpu_s() - shards_s)
    return Round(answered / took_s, spent[0] / answered * 1e6, spent[1] / answered * 1e6)


def median(rounds: Sequence[Round]) -> Round:
    """Return the median of each figure."""
    return Round(
        statistics.median(one.rate for one in rounds),
        statistics.median(one.client_us for one in rounds),
        statistics.median(one.shards_us for one in rounds),
    )


if __name__ == "__main__":
    main()
