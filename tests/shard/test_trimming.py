"""Free memory goes back to the system, also where much was still held when that was first tried."""

import ctypes
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import anyio
import pytest

from attractor_server.shard import trimming
from attractor_server.shard.budget import Budget


async def test_the_heap_is_trimmed_again_where_it_was_first_done_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    done, ended = list[int](), anyio.Event()

    def resident() -> Iterator[int]:
        """Pages at rest; before and after a trial that comes while they are held; before and after the next."""
        yield from (100, 200, 195, 150, 101)
        while True:
            anyio.from_thread.run_sync(ended.set)
            yield 101

    seen = resident()
    monkeypatch.setattr(trimming, "_resident_pages", lambda: next(seen))
    monkeypatch.setattr(trimming, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=done.append))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trimming.trim, Budget(1 << 20))
            await ended.wait()
            tasks.cancel_scope.cancel()
    assert done == [0, 0]
