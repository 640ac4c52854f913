"""Memory that calls have given back goes back to the system, which the allocator alone would keep."""

import ctypes
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from attractor_server.rpc.budget import Budget

LOOK_EVERY_S = 2.0
GROWTH = 1.1
"""Resident memory after the last time, and so many times that, before it is tried again"""
_QUIET = 16
"""Calls hold no more than this part of their budget: what else is resident is not theirs"""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_APART_BYTES = 4 << 20
"""What is as large has a mapping of its own, which goes when it is freed. glibc's own bound grows to 32 MiB, and
messages then leave holes in the heap"""
_KEPT_BYTES = 64 << 20
"""Free at the end of the heap; as much as glibc's own bound grows to"""
_PAGES = Path("/proc/self/statm")


async def trim(budget: Budget) -> None:
    """Looks again and again, until cancelled; does nothing where the allocator is not glibc's.

    After hundreds of megabytes of messages glibc kept most of what was free; to give it back takes some milliseconds.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _APART_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
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
