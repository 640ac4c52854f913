"""The verdict: what a server says now, held against what it acknowledged and against an undisturbed server."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tests.chaos.ledger import History, Images, patterns
from tests.chaos.load import PAGE, held_by, made, recalled

import attractor
from attractor_server.app import RunningShard, run_shard
from attractor_server.errors import ServerError
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends.opening import inspect_store
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.verify import find_faults

TOLERANCE = 1e-4
"""Of recalled values: another batch, and a page written anew, differ by about 1e-6"""


@dataclass
class Report:
    """What a round has shown."""

    stores: int = 0
    """Acknowledged"""
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    """Memories that recall otherwise than an undisturbed server, or answered otherwise though nobody touched them"""
    longest_s: float = 0.0
    """That a store waited for its answer"""
    problems: list[str] = field(default_factory=list)

    def judge(self, name: str, history: History, info: attractor.MemoryInfo | None) -> int:
        """Counts what is lost or doubled of a memory; the patterns in it."""
        self.stores += history.acknowledged
        least, most = history.acknowledged, history.sent
        version, total = (info.version, info.patterns) if info else (0, 0)
        if version != total or total < least:
            self.lost += max(1, least - total)
        if total > most:
            self.doubled += total - most
        if version != total or not least <= total <= most:
            self.problems.append(f"{name}: {least} to {most} stores, and the server has version {version} of {total}")
        if history.answers != [(number, number) for number in range(1, least + 1)]:
            self.doubled += 1
            self.problems.append(f"{name}: stores were answered {history.answers}")
        return min(total, most)

    def compare(self, name: str, seen: Sequence[Images], expected: Sequence[Images], *, tolerance: float) -> None:
        """Counts a memory whose answers are others."""
        for one, other in zip(seen, expected, strict=True):
            same = one.shape == other.shape and np.allclose(one, other, rtol=tolerance, atol=tolerance)
            if not same or (tolerance == 0 and one.tobytes() != other.tobytes()):
                self.wrong += 1
                self.problems.append(f"{name}: it answers otherwise, by {_distance(one, other):.2g}")
                return


def _distance(one: Images, other: Images) -> float:
    return float(np.abs(one - other).max(initial=0)) if one.shape == other.shape else np.inf


@asynccontextmanager
async def alone(spec: ShardSpec) -> AsyncIterator[RunningShard]:
    """A shard in this process that knows of no other."""
    async with run_shard(spec) as shard:
        await shard.learn(Topology(1, (shard.info,)))
        yield shard


@asynccontextmanager
async def undisturbed(models: Path) -> AsyncIterator[attractor.AsyncClient]:
    """A client of a server that nothing happens to."""
    spec = ShardSpec(models=models, bank_bytes=1 << 20, warm_up=False)
    async with alone(spec) as shard, attractor.connect(shard.info.address, timeout_s=60) as client:
        yield client


def damage_in(data: Path, artifacts: Path) -> Sequence[str]:
    """What `attractor verify` says of a store."""
    try:
        with inspect_store(uri_of(data)) as view:
            return [str(fault) for fault in find_faults(view, Counter(), Artifacts(artifacts, make=False))]
    except ServerError as error:
        return [error.message]


async def verify(
    client: attractor.AsyncClient, known: Mapping[str, History], before: Mapping[str, Sequence[Images]], models: Path
) -> Report:
    """Reads back every memory that was stored to, and those that were not."""
    report = Report()
    async with undisturbed(models) as twin:
        for name, history in known.items():
            total = report.judge(name, history, await _info(client, name))
            if total:
                await _replay(twin, name, total)
                given = held_by(name, total)
                expected = await recalled(twin, name, given)
                report.compare(name, await recalled(client, name, given), expected, tolerance=TOLERANCE)
    for name, answers in before.items():
        info = await _info(client, name)
        if info is None or (info.version, info.patterns) != (PAGE + 1, PAGE + 1):
            report.lost += 1
            report.problems.append(f"{name}: nobody touched it, and it has become {info}")
            continue
        report.compare(name, await recalled(client, name, patterns(name, 1, PAGE + 1)), answers, tolerance=0)
    return report


async def _info(client: attractor.AsyncClient, name: str) -> attractor.MemoryInfo | None:
    try:
        return await client.memory(name).info()
    except attractor.MemoryNotFound:
        return None


async def _replay(twin: attractor.AsyncClient, name: str, total: int) -> None:
    _, _, worker, generation = name.split("/")
    memory = await made(twin, name, int(worker) + int(generation))
    for one in held_by(name, total):
        await memory.store(one)
