"""The topology: shards and their slots, as every shard knows them."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from attractor_proto.names import SLOTS, slot_of
from attractor_server.sharding.placement import Owners, deal
from attractor_server.sharding.slots import GROUPS


@dataclass(frozen=True)
class ShardInfo:
    """The address at which clients reach a shard (host:port), and the device it computes on."""

    address: str
    device: str


@dataclass(frozen=True)
class Topology:
    """Shards by number, and who owns which slot. The epoch grows with every change."""

    epoch: int
    shards: tuple[ShardInfo, ...]
    owners: Owners | None = field(default=None, compare=False, repr=False)
    """(slots,); None: as many slots as a cluster has by default, deal out in turn"""
    follows_nodes: bool = False
    """There shall be a shard for each node of the Ray cluster; else as many as were asked for"""

    @cached_property
    def slot_owners(self) -> Owners:
        """For each slot, the number of the shard that owns it."""
        return deal(SLOTS, np.ones(len(self.shards))) if self.owners is None else self.owners

    def groups(self, number: int) -> frozenset[int]:
        """The groups of slots that are that shard's."""
        return frozenset((np.flatnonzero(self.slot_owners == number) % GROUPS).tolist())

    @cached_property
    def owning(self) -> frozenset[str]:
        """Addresses of the shards that own a slot."""
        return frozenset(self.shards[number].address for number in np.unique(self.slot_owners).tolist())

    def owner(self, name: str) -> int:
        """Number of the shard that owns the memory of that name."""
        return int(self.slot_owners[slot_of(name, len(self.slot_owners))])
