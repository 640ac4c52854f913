"""The size of a batch: such that the next request waits for little more than one batch's time."""

import math
from collections.abc import Hashable

CONTENTION_S = 1.0

CONTENTION_PART = 3
"""Batches take this part of the time where several namespaces ask for work"""

DECAY = 0.95
"""Weight of what was learned before when another batch is done"""

START = 64
"""Patterns in the first batch of a program, whose speed nobody knows"""


class BatchSizer:
    """Bounds batches by the time they take, for each program by what its batches took before."""

    def __init__(self, *, batch_s: float | None, batch_limit: int) -> None:
        """`batch_s` is what a batch should take at most; None bounds them by `batch_limit` patterns alone."""
        self._batch_s = batch_s
        self._batch_limit = batch_limit
        self._limits: dict[Hashable, int] = {}

    def limit_of(self, program: Hashable) -> int:
        """Return the number of patterns in the next batch of that program."""
        if self._batch_s is None:
            return self._batch_limit
        return self._limits.get(program, min(START, self._batch_limit))

    def learn(self, program: Hashable, weight: int, took_s: float) -> None:
        """Learn from a batch of that weight: the bound falls or grows to its double or half at once.

        It grows after batches only that were about as large as it allowed: smaller ones say nothing of larger ones.
        """
        if self._batch_s is None:
            return
        limit = self.limit_of(program)
        fitting = round(weight * self._batch_s / max(took_s, 1e-6))
        if fitting < weight:
            limit = min(limit, max(fitting, limit // 2, 1))
        elif 2 * weight > limit:
            limit = max(limit, min(fitting, 2 * limit, self._batch_limit))
        self._limits[program] = limit


class SliceCost:
    """Cost of a part of a long request on its namespace's account: as much as is computed of others meanwhile."""

    def __init__(self) -> None:
        self._patterns = 0.0
        self._seconds = 0.0

    def learn(self, cost: int, took_s: float) -> None:
        """Take note of a batch that was done at once."""
        self._patterns = DECAY * self._patterns + cost
        self._seconds = DECAY * self._seconds + took_s

    def count_patterns(self, seconds: float | None) -> int:
        """Return how many are computed in that time, at least one."""
        if seconds is None or not self._seconds:
            return START
        return max(1, round(self._patterns / self._seconds * seconds))


class Contention:
    """Contention of namespaces: several ask for work and wait for one another, so that batches are kept short."""

    def __init__(self) -> None:
        self._last: str | None = None
        self._changed_s = -math.inf

    def note(self, namespace: str, now_s: float) -> None:
        """Note that a namespace has asked."""
        if namespace != self._last:
            self._changed_s = -math.inf if self._last is None else now_s
            self._last = namespace

    def is_present(self, now_s: float) -> bool:
        """Return whether two namespaces asked one after the other, a short while ago at most."""
        return now_s - self._changed_s < CONTENTION_S
