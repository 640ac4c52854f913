"""Return of free memory to the system, which the allocator alone would keep."""

import ctypes
import sys
from pathlib import Path

import anyio.to_thread

from attractor_server.shard.budget import Budget

LOOK_EVERY_S = 2.0

LOOK_LIMIT_S = 8.0
"""The longest time between two trials, while they give little back"""

GROWTH = 1.1
"""Resident memory at its least, and so many times that, before a trial"""

GAIN = 1.02
"""Resident memory after a trial, and so many times that before it, where the trial gave something back"""

_QUIET = 16
"""Calls hold no more than this part of their budget: what else is resident is not theirs"""

_PAGES = Path("/proc/self/statm")


async def trim(budget: Budget) -> None:
    """Trim the heap again and again, until cancelled; do nothing where the allocator is not glibc's.

    After hundreds of megabytes of messages glibc kept most of what was free; to give it back takes some milliseconds.
    A trial that came while much was still held gave little: there is another one a little later.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        return
    least, wait_s = await anyio.to_thread.run_sync(_resident_pages), LOOK_EVERY_S
    while True:
        await anyio.sleep(wait_s)
        before = await anyio.to_thread.run_sync(_resident_pages)
        if budget.used_bytes >= budget.limit_bytes // _QUIET or before <= GROWTH * least:
            wait_s = LOOK_EVERY_S
            continue
        await anyio.to_thread.run_sync(libc.malloc_trim, 0)
        after = await anyio.to_thread.run_sync(_resident_pages)
        least = min(least, after)
        wait_s = LOOK_EVERY_S if before > GAIN * after else min(2 * wait_s, LOOK_LIMIT_S)


def _resident_pages() -> int:
    return int(_PAGES.read_text().split()[1])
