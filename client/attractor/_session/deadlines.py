"""Deadlines of requests, watched by one timer for all of them: a scope for each costs as much as all else."""

import asyncio
import math
from collections.abc import Callable, Iterable

from attractor._session.request import Request

_RESOLUTION_S = 0.005
"""Least time between two checks of all that is unfinished."""


class Deadlines:
    """Timer that checks unfinished requests when the first deadline among them has come. Use it from one event loop."""

    def __init__(self, iter_unfinished: Callable[[], Iterable[Request]], expire: Callable[[Request], None]) -> None:
        """`expire` is called with each request whose deadline has passed."""
        self._iter_unfinished = iter_unfinished
        self._expire = expire
        self._next_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, request: Request) -> None:
        """Take a new request's deadline into account."""
        if request.deadline_s < self._next_s:
            self._schedule(request.deadline_s)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self, time_s: float) -> None:
        self.close()
        self._next_s = time_s
        self._timer = asyncio.get_running_loop().call_at(time_s, self._check)

    def _check(self) -> None:
        now_s = asyncio.get_running_loop().time()
        waiting = [request for request in self._iter_unfinished() if request.alive]
        for request in waiting:
            if request.deadline_s <= now_s:
                self._expire(request)
        self._next_s = math.inf
        left_s = min((request.deadline_s for request in waiting if request.alive), default=math.inf)
        if left_s < math.inf:
            self._schedule(max(left_s, now_s + _RESOLUTION_S))
