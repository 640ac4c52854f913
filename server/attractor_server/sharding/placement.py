"""Placement: the owner of each slot, and the least that has to move when shards or loads change."""

import heapq
from collections.abc import Set
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attractor_server.sharding.slots import GROUPS

Owners: TypeAlias = NDArray[np.int32]

Floats: TypeAlias = NDArray[np.float64]

Places: TypeAlias = NDArray[np.intp]

LIMIT = 1.1
"""Level above which a shard is hot, in mean levels: what `cool` leaves has room to grow before it reaches 1.15."""


def deal(slots: int, weights: Floats) -> Owners:
    """Assign slots by weight alone, while nothing is known of loads; in turn where weights are equal.

    Hamilton's apportionment says how many each shard gets; its k-th is dealt at time (k + 1/2) / weight.

    Raises:
        ValueError: the slots are no power of two, or there is no shard for them.
    """
    if slots < 1 or slots & (slots - 1):
        raise ValueError(f"slots: saw {slots}; expected a power of two")
    _check_weights(weights)
    quotas = slots * weights / weights.sum()
    counts = np.floor(quotas).astype(np.int64)
    counts[np.argsort(counts - quotas, kind="stable")[: slots - counts.sum()]] += 1
    shards = np.repeat(np.arange(len(weights)), counts)
    turns = np.arange(slots) - np.repeat(np.cumsum(counts) - counts, counts)
    return shards[np.lexsort((shards, (turns + 0.5) / weights[shards]))].astype(np.int32)


def loads_of(owners: Owners, loads: Floats, weights: Floats) -> Floats:
    """Return the load that each shard carries. (shards,)"""
    return np.bincount(owners, loads, minlength=len(weights)).astype(np.float64)


def imbalance(owners: Owners, loads: Floats, weights: Floats) -> float:
    """Return the highest level, in mean levels; infinite while a shard of weight 0 owns something."""
    carries, present = loads_of(owners, loads, weights), weights > 0
    if np.any(carries[~present]):
        return np.inf
    return float(np.max(carries[present] / weights[present]) * weights.sum() / loads.sum())


def load_moved(before: Owners, after: Owners, loads: Floats) -> float:
    """Return the load of all slots that changed their owner."""
    return float(loads[before != after].sum())


def join(owners: Owners, loads: Floats, weights: Floats, newcomer: int) -> Owners:
    """Return the owners after that shard came in, which gets no more than its share; nothing else moves.

    Greedy: whoever is highest above the mean gives the heaviest slot that fits into the newcomer's room and does not
    take the giver below the mean, or else its lightest; until nothing fits. `weights` are those with the newcomer.
    """
    _check(owners, loads, weights)
    carries, shares = loads_of(owners, loads, weights), weights * loads.sum() / weights.sum()
    room = shares[newcomer] - carries[newcomer]
    slots_of, after, lightest = _Index(owners, loads, len(weights)), owners.copy(), loads.min()
    givers = [(-carries[n] / weights[n], n) for n in np.flatnonzero(carries > shares).tolist() if weights[n]]
    heapq.heapify(givers)
    while givers and room >= lightest:
        _, giver = heapq.heappop(givers)
        slot = slots_of.take(giver, at_most=min(room, carries[giver] - shares[giver]), never_above=room)
        if slot is not None:
            after[slot] = newcomer
            room -= loads[slot]
            carries[giver] -= loads[slot]
            if carries[giver] > shares[giver]:
                heapq.heappush(givers, (-carries[giver] / weights[giver], giver))
    return after


def leave(owners: Owners, loads: Floats, weights: Floats, gone: int) -> Owners:
    """Return the owners after that shard left: each of its slots goes to the lowest level, and nothing else moves.

    Longest processing time first (Graham 1969). `weights` are those without it: weights[gone] is 0.

    Raises:
        ValueError: the shard has a weight, or no other one has.
    """
    _check(owners, loads, weights)
    if weights[gone] != 0:
        raise ValueError(f"weights[{gone}]: saw {weights[gone]:g}; expected 0 for a shard that left")
    after, carries = owners.copy(), loads_of(owners, loads, weights)
    for slot in _heaviest_first(np.flatnonzero(owners == gone), loads):
        after[slot] = target = _lowest_with(loads[slot], carries, weights)
        carries[target] += loads[slot]
    return after


def cool(owners: Owners, loads: Floats, weights: Floats, limit: float = LIMIT) -> Owners:
    """Return the owners after each shard above `limit` mean levels gave away just as many slots as bring it there.

    The bound is that of consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018). A slot goes to
    whoever is lowest with it, if that is lower than its giver would be. One heavier than the bound stays, and all
    others leave its shard. No level ends above the greatest of the bound, such a slot, and the mean level plus the
    heaviest slot by the mean weight.
    """
    _check(owners, loads, weights)
    after, carries = owners.copy(), loads_of(owners, loads, weights)
    bounds = limit * weights * loads.sum() / weights.sum()
    hot = np.flatnonzero((carries > bounds) & (weights > 0))
    given = [_choose_given(np.flatnonzero(owners == shard), loads, float(bounds[shard])) for shard in hot]
    leaving = np.concatenate([*given, np.empty(0, np.intp)])
    np.subtract.at(carries, owners[leaving], loads[leaving])
    for slot in _heaviest_first(leaving, loads):
        giver, target = owners[slot], _lowest_with(loads[slot], carries, weights)
        lower = (carries[target] + loads[slot]) * weights[giver] < (carries[giver] + loads[slot]) * weights[target]
        after[slot] = target if lower else giver
        carries[after[slot]] += loads[slot]
    return after


def least_to_cool(owners: Owners, loads: Floats, weights: Floats, limit: float = LIMIT) -> float:
    """Return the load above the limit: what would have to move if slots could be cut to measure."""
    bounds = limit * weights * loads.sum() / weights.sum()
    return float(np.maximum(loads_of(owners, loads, weights) - bounds, 0.0).sum())


class _Index:
    """Slots by shard; those of a shard are sorted when it is first asked for one."""

    def __init__(self, owners: Owners, loads: Floats, shards: int) -> None:
        self._loads = loads
        self._order = np.argsort(owners, kind="stable")
        self._ends = np.cumsum(np.bincount(owners, minlength=shards))
        self._parts: dict[int, list[int]] = {}

    def take(self, shard: int, *, at_most: float, never_above: float) -> int | None:
        """Return the shard's heaviest slot of at most that load, or else its lightest; None above the other bound."""
        if (part := self._parts.get(shard)) is None:
            slots = self._order[self._ends[shard - 1] if shard else 0 : self._ends[shard]]
            part = self._parts[shard] = slots[np.argsort(self._loads[slots], kind="stable")].tolist()
        place = max(int(np.searchsorted(self._loads[part], at_most, side="right")) - 1, 0)
        return part.pop(place) if part and self._loads[part[place]] <= never_above else None


def _choose_given(slots: Places, loads: Floats, bound: float) -> Places:
    """Choose slots of a hot shard to give away: no less than its excess, and none of them could stay."""
    slots = _heaviest_first(slots, loads)
    if loads[slots[0]] >= bound:
        return slots[1:]
    left = float(loads[slots].sum()) - bound
    given: list[np.intp] = []
    kept: list[np.intp] = []
    for slot in slots:
        fits = loads[slot] <= left
        (given if fits else kept).append(slot)
        left -= loads[slot] * fits
    if left > 0:  # less than the lightest of what is kept
        given.append(kept.pop())
        left -= loads[given[-1]]
    needed = []
    for slot in _heaviest_first(np.array(given, np.intp), loads):
        if loads[slot] <= -left:
            left += loads[slot]
        else:
            needed.append(slot)
    return np.array(needed, np.intp)


def _heaviest_first(slots: Places, loads: Floats) -> Places:
    return slots[np.argsort(-loads[slots], kind="stable")]


def _lowest_with(load: float, carries: Floats, weights: Floats) -> int:
    """Return the shard whose level is lowest once it carries that load as well."""
    levels = np.full(len(weights), np.inf)
    return int(np.argmin(np.divide(carries + load, weights, out=levels, where=weights > 0)))


def _check(owners: Owners, loads: Floats, weights: Floats) -> None:
    _check_weights(weights)
    if owners.shape != loads.shape or owners.min() < 0 or owners.max() >= len(weights):
        seen = f"{owners.shape} numbers from {owners.min()} to {owners.max()}"
        raise ValueError(f"owners: saw {seen}; expected {loads.shape} from 0 to {len(weights) - 1}")
    if not (np.isfinite(loads).all() and loads.min() > 0):
        raise ValueError(f"loads: saw {loads.min():g} to {loads.max():g}; expected finite ones above 0")


def _check_weights(weights: Floats) -> None:
    if not (np.isfinite(weights).all() and np.all(weights >= 0) and np.any(weights > 0)):
        raise ValueError(f"weights: saw {weights.tolist()[:8]}; expected finite ones, none below 0, one above")


LOADS = np.ones(GROUPS)
"""Of the groups: shards do not report theirs"""


def first(shards: int) -> Owners:
    """Assign the groups while nobody has anything: to the shards in turn."""
    return deal(GROUPS, np.ones(shards))


def reassign(owners: Owners, before: Set[int], now: Set[int]) -> Owners:
    """Return the owners of the groups after the shards `before` have become those `now`; the least possible moves.

    Where no shard is left everything stays as it is: one of them will come back.
    """
    if not now:
        return owners
    size = max(before | now) + 1
    members = set(before)
    for newcomer in sorted(now - before):
        members.add(newcomer)
        owners = join(owners, LOADS, _weights(members, size), newcomer)
    for gone in sorted(before - now):
        members.remove(gone)
        owners = leave(owners, LOADS, _weights(members, size), gone)
    return cool(owners, LOADS, _weights(members, size))


def spread(owners: Owners, slots: int) -> Owners:
    """Return the owners of the slots, from those of their groups."""
    return np.tile(owners, slots // GROUPS)


def groups_of(slot_owners: Owners) -> Owners:
    """Return the owners of the groups, from those of the slots: the inverse of `spread`."""
    return slot_owners[:GROUPS]


def _weights(members: Set[int], size: int) -> Floats:
    return np.isin(np.arange(size), list(members)).astype(np.float64)
