"""Groups of slots: what is owned, and moves from shard to shard, as one."""

from attractor_proto.names import slot_of

GROUPS = 64
"""A power of two, no more than there are slots; as many shards can own something"""


def group_of(name: str) -> int:
    """Return the group of a memory's slot: the slot modulo the number of groups, whatever the number of slots."""
    return slot_of(name, GROUPS)
