"""Similar patterns: those of a store that its memory has already, about, before anything is computed."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from attractor_server.engine.batch import MemoryBatch, Stops
from attractor_server.engine.pages.pattern_cache import PatternCache
from attractor_server.memories.items import is_expired
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Floats
from attractor_server.scheduling.jobs import Job

ROUNDING = 1e-6
"""By which a cosine may be less than it is, so that 1 is that of equal patterns"""


def find_similar(patterns: PatternCache, batch: MemoryBatch) -> Stops[Mapping[Job, Sequence[str | None]]]:
    """Return, for stores that leave out what is similar, the id of what is similar to each pattern; None for nothing.

    With a stop after each page.

    Raises:
        ServerError: the store cannot be read, or is damaged.
    """
    found = {}
    for job in batch.jobs:
        if job.unless_similar:
            found[job] = yield from _compare(patterns, batch.memory, job)
    return found


def _compare(patterns: PatternCache, memory: MemoryRecord, job: Job) -> Stops[Sequence[str | None]]:
    assert job.values is not None
    values, now_s = _normalize(job.values), time.time()
    least = job.unless_similar - ROUNDING
    best, names = np.full(len(values), least, np.float32), list[str | None]([None]) * len(values)
    for page in list(memory.pages):
        if (kept := patterns.of(memory, page)) is None:
            continue
        cosines = values @ _normalize(kept.values).T
        cosines[:, [is_expired(item, now_s) for item in kept.items]] = -1
        first = cosines.argmax(1)
        for row in np.flatnonzero(cosines.max(1) >= best).tolist():
            best[row], names[row] = cosines[row, first[row]], kept.items[first[row]].id
        yield
    among = values @ values.T
    for row in range(1, len(values)):  # and those before it, unless they are left out themselves
        earlier = [one for one in range(row) if names[one] is None and among[row, one] >= least]
        if names[row] is None and earlier:
            names[row] = job.items[earlier[0]].id if job.items else ""
    return names


def _normalize(values: Floats) -> Floats:
    """Return unit vectors (n, d)."""
    found: Floats = values / np.maximum(np.sqrt(np.einsum("ij,ij->i", values, values)), 1e-12)[:, None]
    return found
