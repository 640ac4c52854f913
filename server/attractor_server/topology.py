"""Which shard owns which slot, as every shard knows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from attractor_proto.names import SLOTS, slot_of


@dataclass(frozen=True)
class ShardInfo:
    """Where clients reach a shard (host:port), and what it computes on."""

    address: str
    device: str


@dataclass(frozen=True)
class Topology:
    """Shards by number; slots are dealt out to them in turn. The epoch grows with every change."""

    epoch: int
    shards: tuple[ShardInfo, ...]

    @property
    def slot_owners(self) -> Sequence[int]:
        """For each slot, the number of the shard that owns it."""
        return [slot % len(self.shards) for slot in range(SLOTS)]

    def owner(self, name: str) -> int:
        """Number of the shard that owns the memory of that name."""
        return slot_of(name) % len(self.shards)
