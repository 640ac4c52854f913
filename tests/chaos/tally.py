"""What a fault has shown, and the list of all faults."""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from tests.chaos.checker import Checker
from tests.chaos.verifying import Report
from tests.support.shard_process import Hook, ShardProcess

from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

PROBLEMS_KEPT = 20
SETTLE_S = 0.5
T = TypeVar("T")


class NotPossible(Exception):
    """This machine does not allow what the fault needs."""


@dataclass
class Tally:
    """Sums over the times a fault was done."""

    times: int = 0
    stores: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    waits_s: list[float] = field(default_factory=list)
    """The longest that any store waited, of each time"""
    found: int = 0
    """Damage that was named"""
    harmless: int = 0
    problems: list[str] = field(default_factory=list)
    noticed: list[str] = field(default_factory=list)
    """By which broken promises a sabotage was found"""
    not_possible: str = ""

    @property
    def red(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.lost or self.doubled or self.wrong or self.problems)

    def add(self, report: Report) -> None:
        self.stores += report.stores
        self.lost += report.lost
        self.doubled += report.doubled
        self.wrong += report.wrong
        if report.longest_s:
            self.waits_s.append(report.longest_s)
        for problem in report.problems:
            self.blame(problem)

    def blame(self, problem: str) -> None:
        """Notes a promise that was broken; of very many the first."""
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)

    def row(self) -> dict[str, object]:
        """As the results keep it."""
        waits = sorted(self.waits_s)
        return {
            "times": self.times,
            "stores": self.stores,
            "lost": self.lost,
            "doubled": self.doubled,
            "wrong": self.wrong,
            "median_wait_s": round(statistics.median(waits), 2) if waits else None,
            "worst_wait_s": round(waits[-1], 2) if waits else None,
            "found": self.found,
            "harmless": self.harmless,
            "problems": self.problems,
            "noticed": self.noticed,
            "not_possible": self.not_possible,
        }


@dataclass(kw_only=True)
class Run:
    """What a fault is given: how often, where, and a tally to add to."""

    times: int
    folder: Path
    models: Path
    loop: asyncio.Runner
    """One event loop for all: gRPC's poller would call a closed one"""
    seed: int = 0
    hooks: tuple[Hook, ...] = ()
    """Of every shard without Ray: what is sabotaged"""
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it to its end."""
        return self.loop.run(work)

    def under(self, name: str, *hooks: Hook, times: int, seed: int) -> "Run":
        """The same with other hooks, in a folder beside, with a tally of its own."""
        return replace(self, times=times, seed=seed, hooks=hooks, tally=Tally(), folder=self.folder / name)

    def spec(self, data: Path | None = None) -> ShardSpec:
        return ShardSpec(
            models=self.models, bank_bytes=1 << 20, warm_up=False, store_uri=uri_of(data or self.folder / "data")
        )

    def shard(self, *hooks: Hook, data: Path | None = None, artifacts: Path | None = None) -> ShardProcess:
        return ShardProcess(replace(self.spec(data), artifacts=artifacts), *self.hooks, *hooks)

    def checker(self, address: str, *, timeout_s: float = 120.0) -> Checker:
        return Checker(address, ledger=self.folder / "ledger", models=self.models, timeout_s=timeout_s)

    def turns(self, checker: Checker) -> Iterator[int]:
        """One time after another: yields under load, for the fault to be done; then has it judged."""
        for number in range(self.times):
            checker.begin(f"turn{number}")
            pause(self.random.uniform(0, SETTLE_S))
            yield number
            checker.served()
            self.tally.add(checker.end())
            self.tally.times += 1


def pause(seconds: float) -> None:
    """Lets the load go on: a fault comes at a moment that nothing announces."""
    time.sleep(seconds)


Inflict: TypeAlias = Callable[[Run], None]


@dataclass(frozen=True)
class Fault:
    """One entry of the list."""

    name: str
    times: int
    """Of a full run"""
    short: int
    """Of the tests' run"""
    what: str
    inflict: Inflict


FAULTS: dict[str, Fault] = {}


def fault(name: str, *, times: int, short: int = 0) -> Callable[[Inflict], Inflict]:
    """Puts a function in the list; its docstring says what it does."""

    def listed(inflict: Inflict) -> Inflict:
        what = (inflict.__doc__ or "").splitlines()[0].rstrip(".")
        FAULTS[name] = Fault(name, times, short, what, inflict)
        return inflict

    return listed
