"""Where does the processor time of a query go, on its way from the application to the fast weights and back?

The load of `bench_serve.py`: single queries of 1,024 callers to 1,000 memories of `embedding-384`, on one shard, and
then through another one, which forwards them. py-spy (of the extra `bench`) looks from outside, 200 times a second, at
what the threads of a process do; a sample belongs to the step of the innermost function of ours. Each step gets its
part of the processor time that the system counts for the process: microseconds a query, beside those of all processes.
"""

import os
import re
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from subprocess import DEVNULL

import anyio
import psutil
from _loads import Query, run_closed_loop
from _report import Result, report
from _served import connect_queries
from _shards import Shards
from _tenants import MODEL, Vectors, vectors

from attractor_server.model_registry import load_models
from attractor_server.shard.event_loop import freeze_heap
from attractor_server.shard.spec import ShardSpec

CALLERS, WARM_S, SECONDS, RATE = 1024, 2.0, 15, 200
ATTACHING_S = 2.0
SPEC = ShardSpec(bank_bytes=256 << 20, warm_up=False)
PY_SPY = Path(sysconfig.get_path("scripts")) / "py-spy"

WIRE = "HTTP/2 and the event loop"
WAITING = "waiting for the batch before"
SDK: Mapping[str, str] = {
    **dict.fromkeys(("_session/stream.py", "_session/link.py:Link._send", "_session/link.py:Link._receive"), WIRE),
    **dict.fromkeys(
        (
            "_session/frames.py",
            "_session/operations.py:_encode",
            "_session/outbox.py:Outbox.next",
            "_session/outbox.py:Outbox._next",
        ),
        "a frame for all that waits",
    ),
    **dict.fromkeys(
        (
            *("_results.py", "_session/operations.py", "_session/link.py", "_session/request.py:Request.resolve"),
            "_session/calls.py:PendingCall",
        ),
        "a frame into answers, the caller wakes",
    ),
    "_loads.py": "the callers themselves",
    "_served.py": "the callers themselves",
    "_": "values to bytes, a request in its queue",
    "": WIRE,
}
SHARD: Mapping[str, str] = {
    **dict.fromkeys(("rpc/responses.py:ResponseQueue.run", "rpc/session.py:Session._serve"), WIRE),
    **dict.fromkeys(
        (
            "rpc/responses.py",
            "rpc/operations.py:encode",
            "rpc/codec.py:encode",
            "rpc/codec.py:encode_scores",
            "rpc/codec.py:_concatenate",
            "rpc/codec.py:encode_pages",
        ),
        "answers into frames",
    ),
    **dict.fromkeys(("rpc/", "shard/"), "bytes to arrays, checks, a job for each request"),
    **dict.fromkeys(("scheduling/", "memories/"), WAITING),
    "engine/compute/": "the reading loop",
    "energy/": "into the network's units, and back",
    "engine/": "finding the pages, patterns side by side",
    "": WIRE,
}
FORWARDER: Mapping[str, str] = {"": "forwarding, where the shard is not the owner"}
"""Step of a function of ours by its place, FILE:NAME; the first prefix that fits counts"""
OURS = re.compile(r"([^;]+) \((?:attractor/|attractor_server/|(?=_loads|_served))([^:]+):\d+\)")
"""Function of ours in a stack as py-spy writes it: its name, and the file"""


def main() -> None:
    if not PY_SPY.exists():
        print("nothing is measured: install '.[bench]', which has py-spy")
        return
    size = load_models(None, device="cpu")[MODEL].layout.size
    with Shards(SPEC, 2) as shards:
        report(anyio.run(measure_steps, shards, vectors(64, size)))


async def measure_steps(shards: Shards, cues: Vectors) -> list[Result]:
    """Return a line for each step."""
    freeze_heap()
    client, (owner, other) = os.getpid(), shards.pids
    async with AsyncExitStack() as stack:
        straight = await connect_queries(stack, shards.addresses[0], cues)
        around = await connect_queries(stack, shards.addresses[1], cues, direct=False, store=False)
        steps, all_us = await watch(straight, {client: ("SDK", SDK), owner: ("shard", SHARD)})
        forwarding, with_us = await watch(around, {other: ("shard", FORWARDER)}, also=(client, owner))
    return [
        *(result(step, figure, all_us, "all, straight") for step, figure in steps.items()),
        *(result(step, figure, with_us, "all, forwarded") for step, figure in forwarding.items()),
    ]


def result(step: str, figure: float, whole: float, peer: str) -> Result:
    """Return one line."""
    return Result(name=step, unit="µs a query", ours=figure, peer=peer, theirs=whole)


async def watch(
    query: Query, processes: Mapping[int, tuple[str, Mapping[str, str]]], *, also: Iterable[int] = ()
) -> tuple[dict[str, float], float]:
    """Return microseconds a query of each step of these processes, and of all that they and others use."""
    pids = [*processes, *also]
    await run_closed_loop(query, callers=CALLERS, seconds=WARM_S)
    with tempfile.TemporaryDirectory() as folder:
        files = {pid: Path(folder) / str(pid) for pid in processes}
        spies = [await anyio.open_process(_spy_command(pid, path), stdout=DEVNULL) for pid, path in files.items()]
        await run_closed_loop(query, callers=CALLERS, seconds=ATTACHING_S)
        before = {pid: cpu_s(pid) for pid in pids}
        queries = SECONDS * await run_closed_loop(query, callers=CALLERS, seconds=SECONDS)
        used_us = {pid: (cpu_s(pid) - before[pid]) / queries * 1e6 for pid in pids}
        for spy in spies:
            await spy.wait()
        found: dict[str, float] = {}
        for pid, (whose, steps) in processes.items():
            seen: Counter[str] = Counter()
            for place, samples in places(files[pid].read_text().splitlines()):
                seen[next(step for beginning, step in steps.items() if place.startswith(beginning))] += samples
            found |= {f"{whose}: {step}": used_us[pid] * samples / seen.total() for step, samples in seen.most_common()}
    return found, sum(used_us.values())


def _spy_command(pid: int, path: Path) -> list[str]:
    """Return the command that samples a process's threads into the file, without stopping them."""
    how = ["--nonblocking", "--function", "--rate", str(RATE), "--duration", str(SECONDS), "--format", "raw"]
    return [str(PY_SPY), "record", *how, "--output", str(path), "--pid", str(pid)]


def places(stacks: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield FILE:NAME of the innermost function of ours in a stack, or nothing, and how often it was seen."""
    for stack, _, samples in (line.rpartition(" ") for line in stacks):
        found = OURS.findall(stack)
        yield (f"{found[-1][1]}:{found[-1][0]}" if found else ""), int(samples)


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
