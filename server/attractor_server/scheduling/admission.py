"""Admission to a queue: jobs that wait for room, in a line for each namespace."""

import asyncio
from collections import OrderedDict, deque
from typing import TypeAlias

from attractor_server.memories.names import namespace_of
from attractor_server.scheduling.fairness import has_room
from attractor_server.scheduling.jobs import Job
from attractor_server.scheduling.queue import Queue

Waiter: TypeAlias = tuple[Job, "asyncio.Future[None]"]


class Admission:
    """Lets jobs into a queue as there is room for them, first come first in within a namespace."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._lines: OrderedDict[str, deque[Waiter]] = OrderedDict()
        """By namespace, whose turn is next first"""

    def is_open(self, job: Job, limit: int) -> bool:
        """Return whether the job may enter at once: there is room for it, and no job of its namespace is before it."""
        namespace = namespace_of(job.memory.name)
        mine = self._queue.weight_of(namespace)
        return namespace not in self._lines and has_room(job.weight, mine=mine, free=limit - self._queue.weight)

    async def wait(self, job: Job) -> None:
        """Wait until `admit` has let the job in."""
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(namespace_of(job.memory.name), deque()).append((job, entered))
        await entered

    def admit(self, limit: int) -> None:
        """Let in the jobs that there is room for, one of each namespace in its turn."""
        shut = 0
        while shut < len(self._lines):
            namespace, line = next(iter(self._lines.items()))
            mine, free = self._queue.weight_of(namespace), limit - self._queue.weight
            job, entered = line[0]
            if not entered.done():
                if not has_room(job.weight, mine=mine, free=free):
                    shut += 1
                    self._lines.move_to_end(namespace)
                    continue
                self._queue.put(job)
                entered.set_result(None)
            shut = 0
            line.popleft()
            self._lines.move_to_end(namespace)
            if not line:
                del self._lines[namespace]
