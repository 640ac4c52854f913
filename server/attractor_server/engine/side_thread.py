"""Aside: long work that needs no bank leaves the engine's thread, which others have meanwhile."""

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from attractor_server.scheduling.jobs import Job

Made = TypeVar("Made")

SLICE_S = 0.02
"""Works of several jobs take turns of that length"""

WAIT_S = 0.002
"""How long the engine's thread waits for a work at a turn of its job"""


class _Work(Generic[Made]):
    """Computation of something, a slice at a time."""

    def __init__(self, stops: Generator[None, None, Made]) -> None:
        self._stops = stops
        self.made: list[Made] = []

    def go_on(self) -> None:
        end_s = time.perf_counter() + SLICE_S
        try:
            while time.perf_counter() < end_s:
                next(self._stops)
        except StopIteration as end:
            self.made.append(end.value)


class SideThread:
    """A thread for such work."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aside")

    def make(self, job: Job, stops: Generator[None, None, Made]) -> Generator[None, None, Made]:
        """Make it there, with stops here while it is not made. Nothing that it uses may be changed meanwhile."""
        work = _Work(stops)
        while not work.made:
            slice_ = self._thread.submit(work.go_on)
            while not wait([slice_], WAIT_S).done:
                job.step_aside()
                yield
                job.step_back()
            slice_.result()
        return work.made[0]
