"""A bank's part of the memory that there is."""

import os
from typing import Final

from attractor_server.cgroups import memory_limit
from attractor_server.errors import SettingsError

SERVER_BYTES: Final = 600 << 20
"""Of the command and of Ray, measured: 227 and 350 MiB"""

SHARD_BYTES: Final = 700 << 20
"""Of a shard without its banks: 323 MiB at rest, and as much for requests and for pages on their way"""

BANKS_PART: Final = 0.8
"""Of what is left: files that are written are kept in memory as well"""


def available_memory() -> int:
    """Return the bytes of memory that this process's container, or the machine, has."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, memory_limit() or machine)


def share_memory(free_bytes: int, *, banks: int) -> int:
    """Return the bytes of each of so many banks that share what is free.

    Raises:
        SettingsError: that is nothing.
    """
    share = int(max(0, free_bytes) * BANKS_PART) // max(1, banks)
    if not share:
        raise SettingsError(
            "bank_memory_mib: saw 0, for a part of the memory that there is, which is too little for any; expected "
            "more memory, fewer shards, or a number of MiB"
        )
    return share


def free_memory(shards: int) -> int:
    """Return the bytes that the memory leaves beside a server of so many shards; none where they need more."""
    return available_memory() - SERVER_BYTES - shards * SHARD_BYTES
