"""Which shard is to own which group of slots, as shards come and go. Pure functions."""

from collections.abc import Set

import numpy as np

from attractor_server.placement import Floats, Owners, cool, dealt, join, leave
from attractor_server.storage.groups import GROUPS

LOADS = np.ones(GROUPS)
"""Of the groups: shards do not report theirs"""


def first(shards: int) -> Owners:
    """Owners of the groups while nobody has anything: the shards in turn."""
    return dealt(GROUPS, np.ones(shards))


def reassigned(owners: Owners, before: Set[int], now: Set[int]) -> Owners:
    """Owners of the groups after the shards `before` have become those `now`; the least that has to moves.

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
    """Owners of the slots, from those of their groups."""
    return np.tile(owners, slots // GROUPS)


def groups_of(slot_owners: Owners) -> Owners:
    """The inverse of `spread`."""
    return slot_owners[:GROUPS]


def _weights(members: Set[int], size: int) -> Floats:
    return np.isin(np.arange(size), list(members)).astype(np.float64)
