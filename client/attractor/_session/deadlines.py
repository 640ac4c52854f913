"""Requests whose time is over, noticed by one timer for all of them: a scope for each costs as much as all else."""

import asyncio
import math
from collections.abc import Callable, Iterable

from attractor._session.request import Request

_RESOLUTION_S = 0.005
"""Between two looks at all that is unfinished."""


class Deadlines:
    """Looks at what is unfinished when the first deadline among it has come. Use it from one event loop."""

    def __init__(self, unfinished: Callable[[], Iterable[Request]], expire: Callable[[Request], None]) -> None:
        """`expire` is called with each request whose deadline has passed."""
        self._unfinished = unfinished
        self._expire = expire
        self._next_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, request: Request) -> None:
        """Takes a new request's deadline into account."""
        if request.deadline_s < self._next_s:
            self._look_at(request.deadline_s)

    def close(self) -> None:
        """Stops looking."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, time_s: float) -> None:
        self.close()
        self._next_s = time_s
        self._timer = asyncio.get_running_loop().call_at(time_s, self._look)

    def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        waiting = [request for request in self._unfinished() if request.alive]
        for request in waiting:
            if request.deadline_s <= now_s:
                self._expire(request)
        self._next_s = math.inf
        left_s = min((request.deadline_s for request in waiting if request.alive), default=math.inf)
        if left_s < math.inf:
            self._look_at(max(left_s, now_s + _RESOLUTION_S))
