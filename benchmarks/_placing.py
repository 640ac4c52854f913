"""Simulation of placement: shards that come and go, and memories that get far more queries than others.

Rendezvous hashing, the peer, gives each slot to a shard as if drawn uniformly, a newcomer each slot with the same
chance, and the slots of one that left to the others in the same way: so it is drawn here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from _report import Result
from numpy.random import Generator, default_rng

from attractor_proto.v1 import memories_pb2 as pb
from attractor_server.sharding.placement import (
    LIMIT,
    Floats,
    Owners,
    cool,
    deal,
    imbalance,
    join,
    least_to_cool,
    leave,
    load_moved,
)

EVENTS, SHIFTS, CHUNK = 50, 4, 10_000_000
Mover: TypeAlias = Callable[[Owners, Floats, Floats, int], Owners]


def placement_results() -> Iterator[Result]:
    """Yield all results, in percent of the mean level, or of the load that has to move at least."""
    for slots, shards, memories, exponent in ((1 << 10, 16, 1_000_000, 0.9), (1 << 20, 10_000, 100_000_000, 0.5)):
        label, drawn = f"{shards:,} shards", Drawn.of(slots, memories, exponent, default_rng(0))
        yield from churn_results(label, drawn.counts, shards)
        yield from cooling_results(label, drawn.uneven, shards)
        yield hot_memory_result(label, drawn.steep, shards)
        yield topology_result(label, slots, shards)


@dataclass(frozen=True)
class Drawn:
    """Load of each slot, by memories and by queries under Zipf's law, with a random slot for every memory."""

    counts: Floats
    uneven: Floats
    """The hottest memory has half of a shard's share: 0.9 is the exponent for 16 shards, 0.5 for 10,000"""
    steep: Floats
    """Exponent 1: the hottest memory has more than a shard's share, of 10,000 shards 500 times as much"""

    @classmethod
    def of(cls, slots: int, memories: int, exponent: float, rng: Generator) -> "Drawn":
        """Draw a slot for every memory, independently."""
        sums = np.zeros((3, slots))
        for first in range(0, memories, CHUNK):
            ranks = np.arange(first, min(first + CHUNK, memories)) + 1.0
            drawn = rng.integers(slots, size=len(ranks))
            for total, weights in zip(sums, (None, ranks**-exponent, 1 / ranks), strict=True):
                total += np.bincount(drawn, weights, minlength=slots)
        return cls(*sums)


def churn_results(label: str, loads: Floats, shards: int) -> Iterator[Result]:
    """Yield the worst of all moves and states while shards join and others leave, in turns."""
    rng = default_rng(1)
    ours = churn(deal(len(loads), np.ones(shards)), loads, join, leave)
    drawn = partial(rendezvous, rng)
    theirs = churn(rng.integers(shards, size=len(loads)).astype(np.int32), loads, drawn, drawn)
    units = ("a join moves", "% of its share"), ("a leave moves", "% of its load"), ("max/mean meanwhile", "%")
    for (what, unit), one, other in zip(units, ours, theirs, strict=True):
        yield Result(name=f"{label}: {what}", unit=unit, ours=one, peer="rendezvous hashing", theirs=other)


def churn(owners: Owners, loads: Floats, joining: Mover, leaving: Mover) -> tuple[float, float, float]:
    """Return the most that a join and a leave moved, relative to the least, and the highest max/mean, in percent."""
    rng, shards = default_rng(2), int(owners.max()) + 1
    weights = np.r_[np.ones(shards), np.zeros(EVENTS)]
    joins, leaves, levels = [0.0], [0.0], [imbalance(owners, loads, weights)]
    for newcomer in range(shards, shards + EVENTS):
        weights[newcomer] = 1
        joined = joining(owners, loads, weights, newcomer)
        joins.append(load_moved(owners, joined, loads) * weights.sum() / loads.sum())
        levels.append(imbalance(joined, loads, weights))
        gone = int(rng.choice(np.flatnonzero(weights)))
        weights[gone] = 0
        owners = leaving(joined, loads, weights, gone)
        leaves.append(load_moved(joined, owners, loads) / loads[joined == gone].sum())
        levels.append(imbalance(owners, loads, weights))
    return 100 * max(joins), 100 * max(leaves), 100 * max(levels)


def rendezvous(rng: Generator, owners: Owners, loads: Floats, weights: Floats, shard: int) -> Owners:
    """Assign slots by rendezvous hashing after that shard joined, or left (its weight is 0)."""
    if weights[shard]:
        return np.where(rng.random(len(owners)) < weights[shard] / weights.sum(), np.int32(shard), owners)
    others = rng.choice(np.flatnonzero(weights), size=len(owners)).astype(np.int32)
    return np.where(owners == shard, others, owners)


def cooling_results(label: str, asked: Floats, shards: int) -> Iterator[Result]:
    """Yield the results of hot spots that wander: each time others are hot, and their shards are cooled."""
    owners, weights = deal(len(asked), np.ones(shards)), np.ones(shards)
    moves, before, after = [], [], []
    for shift in range(SHIFTS):
        heat = np.roll(asked, shift * 7)
        now = cool(owners, heat, weights)
        moves.append(100 * load_moved(owners, now, heat) / least_to_cool(owners, heat, weights))
        before.append(100 * imbalance(owners, heat, weights))
        after.append(100 * imbalance(now, heat, weights))
        owners = now
    yield Result(
        name=f"{label}: cooling moves", unit="% of", ours=max(moves), peer="what is above the limit", theirs=100
    )
    yield Result(name=f"{label}: max/mean cooled", unit="%", ours=max(after), peer="before", theirs=max(before))


def hot_memory_result(label: str, asked: Floats, shards: int) -> Result:
    """Compare with the bound for a memory above a shard's share: no placement does better than its slot alone."""
    weights = np.ones(shards)
    level = imbalance(cool(deal(len(asked), weights), asked, weights), asked, weights)
    bound = max(LIMIT, asked.max() * shards / asked.sum())
    return Result(
        name=f"{label}: max/mean, one too hot", unit="%", ours=100 * level, peer="its slot alone", theirs=100 * bound
    )


def topology_result(label: str, slots: int, shards: int) -> Result:
    """Measure the answer to a client that asks for the topology."""
    addresses = [pb.Shard(address=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:7171", device="cuda") for n in range(shards)]
    bare = pb.GetTopologyResponse(epoch=1, shards=addresses)
    full = pb.GetTopologyResponse(epoch=1, shards=addresses, slot_owners=deal(slots, np.ones(shards)).tolist())
    return Result(
        name=f"{label}: topology", unit="bytes", ours=full.ByteSize(), peer="addresses", theirs=bare.ByteSize()
    )
