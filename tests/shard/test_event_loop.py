"""The garbage collector of a process that serves."""

import subprocess
import sys

SCRIPT = """
import gc
from attractor_server.shard.event_loop import freeze_heap

loaded = [[] for _ in range(100_000)]
if {spared}:
    freeze_heap()
before = gc.get_stats()[2]["collections"]
waiting = [[] for _ in range(1_000_000)]
print(gc.get_stats()[2]["collections"] - before, gc.get_freeze_count())
"""


def full_looks(*, spared: bool) -> tuple[int, int]:
    """Looks at all objects while a million more come to wait, and how many are spared, in a process of its own."""
    script = SCRIPT.format(spared=spared)
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    looks, frozen = told.split()
    return int(looks), int(frozen)


def test_what_is_loaded_is_spared_and_what_waits_is_seldom_looked_at() -> None:
    looks, frozen = full_looks(spared=True)
    assert frozen > 100_000
    assert looks <= 2
    assert full_looks(spared=False)[1] == 0
