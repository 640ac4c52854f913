"""How long does a query take, alone and under load?

1,000 memories of `embedding-384` on one shard in a process of its own, single queries through the SDK on loopback.
Under load arrivals are a Poisson process that waits for nothing, at a share of the peak that 1,024 waiting callers
reach, and a query's time counts from its arrival. Alone: one query after another, in turns with a bare unary gRPC echo
of the same tensor, with the engine called for one query in this process, and after that Ray Serve as in `_peers.py`.
"""

from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from statistics import median

import anyio
import numpy as np
from _directly import Directly
from _echo import echo_server
from _loads import run_closed_loop, run_open_loop, time_lone_queries
from _processes import run_server
from _report import Result, report
from _served import connect_queries
from _shards import Shards
from _tenants import MEMORIES, MODEL, Vectors, vectors
from _unary import unary

from attractor_server.model_registry import load_models
from attractor_server.shard.event_loop import freeze_heap
from attractor_server.shard.spec import ShardSpec

CALLERS, ROUNDS, COUNT = 1024, 5, 100
PEAK_S, LOAD_S = 3.0, 8.0
SHARES = (0.1, 0.5, 0.8)
SPEC = ShardSpec(bank_bytes=256 << 20)


def main() -> None:
    size = load_models(None, device="cpu")[MODEL].layout.size
    cues = vectors(64, size)
    with Shards(SPEC, 1) as shards, run_server(partial(echo_server, (size,))) as echo:
        alone, bare, peak, loads = anyio.run(ours, shards.addresses[0], echo, cues)
    report(
        [
            result("lone query", alone, "bare gRPC echo and one engine pass", bare),
            *beside_ray(alone, cues),
            *(
                line
                for share, took_s in zip(SHARES, loads, strict=True)
                for line in under_load(share * peak, share, took_s)
            ),
        ]
    )


def beside_ray(alone: float, cues: Vectors) -> list[Result]:
    """Return the lone query beside Ray Serve, if that is installed."""
    if find_spec("fastapi") is None:
        print("Ray Serve is left out: install '.[bench]' to have it measured")
        return []
    from _peers import RAY_BATCHED, lone_ray_serve  # noqa: PLC0415

    with ProcessPoolExecutor(1, get_context("spawn")) as process:  # Ray forks, where gRPC must not be at work
        theirs = process.submit(anyio.run, lone_ray_serve, cues).result()
    return [result("lone query", alone, RAY_BATCHED, theirs)]


def under_load(rate: float, share: float, took_s: Vectors) -> list[Result]:
    """Return percentiles beside the median."""
    job = f"at {share:.0%} of peak, {rate:,.0f} queries/s"
    half, *tail = np.percentile(took_s, [50, 99, 99.9]).tolist()
    return [
        result(f"{name} {job}", figure, f"p50 {job}", half) for name, figure in zip(("p99", "p99.9"), tail, strict=True)
    ]


def result(name: str, ours_s: float, peer: str, theirs_s: float) -> Result:
    """Return one line, in microseconds."""
    return Result(name=name, unit="µs", ours=ours_s * 1e6, peer=peer, theirs=theirs_s * 1e6)


async def ours(address: str, echo: str, cues: Vectors) -> tuple[float, float, float, list[Vectors]]:
    """Measure a lone query, an echo and an engine pass, in seconds; the peak in queries/s; times under each load."""
    engine = Directly(bank_bytes=SPEC.bank_bytes)
    jobs = engine.queries(MEMORIES)

    async def compute(number: int) -> object:
        return engine.run([jobs[number % MEMORIES]])

    async with AsyncExitStack() as stack:
        query = await connect_queries(stack, address, cues)
        ask = await stack.enter_async_context(unary(echo))
        rounds = [
            (
                await time_lone_queries(query, count=COUNT),
                await time_lone_queries(lambda number: ask(number, cues[number % 64]), count=COUNT),
                await time_lone_queries(compute, count=COUNT),
            )
            for _ in range(ROUNDS + 1)
        ]
        freeze_heap()  # this process has torch as well, for the engine above, and is the client below
        await run_closed_loop(query, callers=CALLERS, seconds=PEAK_S / 3)
        peak = await run_closed_loop(query, callers=CALLERS, seconds=PEAK_S)
        loads = [await run_open_loop(query, rate=share * peak, seconds=LOAD_S) for share in SHARES]
    alone, echoed, computed = (median(figures) for figures in zip(*rounds[1:], strict=True))
    return alone, echoed + computed, peak, loads


if __name__ == "__main__":
    main()
