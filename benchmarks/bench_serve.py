"""How much of the engine's speed gets through a server and the SDK, and how much through other servers?

1,000 memories of `embedding-384` (pages of 66 kB) with 4 patterns each, on one shard in a process of its own; single
queries through the SDK on loopback from 1,024 callers, each of which waits for its answer. In turns with it: a server
that answers the same frames without computing, and the engine alone in this process with batches of 256. After that the
same queries forwarded by a second shard, with the memories on both shards, which is what a second interpreter brings,
and behind the servers of `_peers.py`, which call the model's reading loop.

`--observed` measures instead what metrics and traces cost: each way beside a shard that nobody observes, in turns.
`--secured` measures what TLS and tokens cost, beside a shard with neither, in turns.
"""

import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import anyio
from _directly import Directly
from _echo import echo_server
from _loads import run_closed_loop
from _processes import run_server
from _report import Result, rate, report
from _served import connect_queries
from _shards import Shards
from _tenants import MEMORIES, MODEL, Vectors, vectors

from attractor_server.model_registry import load_models
from attractor_server.shard.event_loop import freeze_heap
from attractor_server.shard.spec import ShardSpec

CALLERS, BATCH = 1024, 256
ROUNDS, ROUND_S = 4, 1.5
OBSERVED_ROUNDS = 10
SPEC = ShardSpec(bank_bytes=256 << 20, warm_up=False)


def main() -> None:
    if "--observed" in sys.argv:
        report_observed()
        return
    if "--secured" in sys.argv:
        report_secured()
        return
    size = load_models(None, device="cpu")[MODEL].layout.size
    cues = vectors(64, size)
    with Shards(SPEC, 2) as shards, run_server(partial(echo_server, (size,))) as echo:
        served, echoed, computed, forwarded, spread = anyio.run(ours, shards.addresses, echo, cues)
    peers = peers_of(cues)
    job = f"single queries, {MEMORIES:,} memories"
    lower = "engine alone" if computed < echoed else "echo of the same frames"
    report(
        [
            result(job, served, f"lower of both: {lower}", min(computed, echoed)),
            result(job, served, f"engine alone, batches of {BATCH}", computed),
            result(job, served, "echo of the same frames, grpc.aio, uvloop", echoed),
            *(result(job, served, name, figure) for name, figure in peers.items()),
            result(f"{job}, forwarded", forwarded, "straight", served),
            result(f"{job}, on two shards", spread, "on one", served),
        ]
    )


def report_observed() -> None:
    """Report queries a second of shards with metrics, and with traces, beside one with neither."""
    from _observed import compare_observed  # noqa: PLC0415 - needs OpenTelemetry's SDK

    cues = vectors(64, load_models(None, device="cpu")[MODEL].layout.size)
    freeze_heap()
    compare = partial(compare_observed, SPEC, cues, callers=CALLERS, rounds=OBSERVED_ROUNDS, seconds=ROUND_S)
    rate, ratios = anyio.run(compare)
    report(
        [
            Result(name=f"single queries, {name}", unit="queries/s", ours=ratio * rate, peer="unobserved", theirs=rate)
            for name, ratio in ratios.items()
        ],
        kept=Path(__file__).parent / "results" / "bench_serve_observed.json",
    )


def report_secured() -> None:
    """Report queries a second of a shard with TLS and tokens, beside one with neither."""
    from _secured import compare_secured  # noqa: PLC0415 - needs trustme

    cues = vectors(64, load_models(None, device="cpu")[MODEL].layout.size)
    freeze_heap()
    open_rate, ratio = compare_secured(SPEC, cues, callers=CALLERS, rounds=OBSERVED_ROUNDS, seconds=ROUND_S)
    report(
        [
            Result(
                name="single queries, TLS and tokens",
                unit="queries/s",
                ours=ratio * open_rate,
                peer="neither",
                theirs=open_rate,
            )
        ],
        kept=Path(__file__).parent / "results" / "bench_serve_secured.json",
    )


def peers_of(cues: Vectors) -> dict[str, float]:
    """Return queries a second by peer; none where they are not installed."""
    if find_spec("fastapi") is None:
        print("other servers are left out: install '.[bench]' to have them measured")
        return {}
    from _peers import rates_of_peers  # noqa: PLC0415

    with ProcessPoolExecutor(1, get_context("spawn")) as process:  # Ray forks, where gRPC must not be at work
        return process.submit(anyio.run, rates_of_peers, cues).result()


def result(job: str, served: float, peer: str, theirs: float) -> Result:
    """Return one line."""
    return Result(name=job, unit="queries/s", ours=served, peer=peer, theirs=theirs)


async def ours(addresses: Sequence[str], echo: str, cues: Vectors) -> Sequence[float]:
    """Return queries a second: served, echoed, by the engine alone, forwarded, on two shards; medians of rounds."""
    engine = Directly(bank_bytes=SPEC.bank_bytes)
    batch = engine.queries(BATCH)
    freeze_heap()  # torch is here as well, and not in a client's process
    async with AsyncExitStack() as stack:
        straight = await connect_queries(stack, addresses[0], cues, direct=True)
        bare = await connect_queries(stack, echo, cues, direct=True, store=False)
        around = await connect_queries(stack, addresses[1], cues, direct=False, store=False)
        both = await connect_queries(stack, addresses[0], cues, spread=True)
        figures: list[list[float]] = [[], [], [], [], []]
        for _ in range(ROUNDS + 1):
            figures[0].append(await run_closed_loop(straight, callers=CALLERS, seconds=ROUND_S))
            figures[1].append(await run_closed_loop(bare, callers=CALLERS, seconds=ROUND_S))
            figures[2].append(rate(lambda: engine.run(batch), BATCH, seconds=ROUND_S))
            figures[3].append(await run_closed_loop(around, callers=CALLERS, seconds=ROUND_S))
            figures[4].append(await run_closed_loop(both, callers=CALLERS, seconds=ROUND_S))
    return [statistics.median(rounds[1:]) for rounds in figures]


if __name__ == "__main__":
    main()
