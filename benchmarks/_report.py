"""Reports of benchmarks: a table for people, and a JSON line for each result."""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from attractor_server.shard.spec import available_cores


@dataclass(frozen=True, kw_only=True)
class Result:
    """Our figure against a peer's or a limit, measured in the same run."""

    name: str
    unit: str
    ours: float
    peer: str
    theirs: float

    @property
    def ratio(self) -> float:
        """Ratio of our figure to the peer's."""
        return self.ours / self.theirs


def report(results: Sequence[Result], *, kept: Path | None = None) -> None:
    """Print the table and the lines, and write the lines, by default to `results/`, with the command and machine."""
    print(f"{'':38} {'ours':>14} {'peer':>14} {'ratio':>8}")
    for one in results:
        print(f"{one.name:38} {one.ours:>14,.0f} {one.theirs:>14,.0f} {one.ratio:>7.2f}×  {one.peer} ({one.unit})")
    script = Path(sys.argv[0])
    command = " ".join(["python", f"benchmarks/{script.name}", *sys.argv[1:]])
    lines = [
        json.dumps({**asdict(one), "ratio": round(one.ratio, 3), "machine": machine(), "command": command})
        for one in results
    ]
    print("\n".join(lines))
    (kept or script.parent / "results" / f"{script.stem}.json").write_text("\n".join(lines) + "\n")


def rate(job: Callable[[], object], items: int, *, seconds: float = 2.0) -> float:
    """Return items a second, the median over repetitions for that long, after one to warm up."""
    job()
    times: list[float] = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or len(times) < 3:
        started_s = time.perf_counter()
        job()
        times.append(time.perf_counter() - started_s)
    return items / statistics.median(times)


def rates(jobs: Mapping[str, tuple[Callable[[], object], int]], *, seconds: float = 2.0) -> dict[str, float]:
    """Return items a second of each (job, items): medians over repetitions in turns, so that all meet the same load.

    Each repeats its job for about a twentieth of its `seconds`, or once, after one to warm up.
    """
    for job, _ in jobs.values():
        job()
    seen: dict[str, list[float]] = {name: [] for name in jobs}
    end_s = time.perf_counter() + seconds * len(jobs)
    while time.perf_counter() < end_s or min(map(len, seen.values())) < 3:
        for name, (job, items) in jobs.items():
            turn_end_s = time.perf_counter() + seconds / 20
            while True:
                started_s = time.perf_counter()
                job()
                now_s = time.perf_counter()
                seen[name].append(items / (now_s - started_s))
                if now_s >= turn_end_s:
                    break
    return {name: statistics.median(figures) for name, figures in seen.items()}


def machine() -> str:
    """Describe the machine."""
    place = f"{platform.machine()}, {available_cores()} cores, Python {platform.python_version()}"
    if "cuda" not in sys.argv:
        return place
    import torch  # noqa: PLC0415 - most benchmarks need none of it

    return f"{place}, {torch.cuda.get_device_name()}"
