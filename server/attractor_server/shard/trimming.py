"""Return of free memory to the system, which the allocator alone would keep."""

import ctypes
import sys
from pathlib import Path

import anyio.to_thread

from attractor_server.shard.budget import Budget

LOOK_EVERY_S = 2.0

GROWTH = 1.1
"""Resident memory after the last time, and so many times that, before it is tried again"""

_QUIET = 16
"""Calls hold no more than this part of their budget: what else is resident is not theirs"""

_PAGES = Path("/proc/self/statm")


async def trim(budget: Budget) -> None:
    """Trim the heap again and again, until cancelled; do nothing where the allocator is not glibc's.

    After hundreds of megabytes of messages glibc kept most of what was free; to give it back takes some milliseconds.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        return
    least = await anyio.to_thread.run_sync(_resident_pages)
    while True:
        await anyio.sleep(LOOK_EVERY_S)
        if budget.used_bytes >= budget.limit_bytes // _QUIET:
            continue
        if await anyio.to_thread.run_sync(_resident_pages) > GROWTH * least:
            await anyio.to_thread.run_sync(libc.malloc_trim, 0)
            least = await anyio.to_thread.run_sync(_resident_pages)


def _resident_pages() -> int:
    return int(_PAGES.read_text().split()[1])
