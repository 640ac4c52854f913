"""What every benchmark prints: a table for people, and a JSON line for each result."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Result:
    """Ours against a peer or a limit, measured in the same run."""

    name: str
    unit: str
    ours: float
    peer: str
    theirs: float

    @property
    def ratio(self) -> float:
        """How many times the peer's figure ours is."""
        return self.ours / self.theirs


def report(results: Sequence[Result]) -> None:
    """Prints the table and the lines, and keeps the lines in `results/`, beside the command that made them."""
    print(f"{'':34} {'ours':>14} {'peer':>14} {'ratio':>8}")
    for one in results:
        print(f"{one.name:34} {one.ours:>14,.0f} {one.theirs:>14,.0f} {one.ratio:>7.2f}×  {one.peer} ({one.unit})")
    script = Path(sys.argv[0])
    command = f"python benchmarks/{script.name}"
    lines = [
        json.dumps({**asdict(one), "ratio": round(one.ratio, 3), "machine": machine(), "command": command})
        for one in results
    ]
    print("\n".join(lines))
    (script.parent / "results" / f"{script.stem}.json").write_text("\n".join(lines) + "\n")


def rate(job: Callable[[], object], items: int, *, seconds: float = 2.0) -> float:
    """Items a second, the median over repetitions for that long, after one to warm up."""
    job()
    times: list[float] = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or len(times) < 3:
        started_s = time.perf_counter()
        job()
        times.append(time.perf_counter() - started_s)
    return items / statistics.median(times)


def machine() -> str:
    """Where it ran."""
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
