"""Matching: the pattern in a memory's store that is nearest to each recalled one."""

import numpy as np

from attractor_server.engine.batch import Stops
from attractor_server.engine.pages.pattern_cache import PatternCache
from attractor_server.fields import Layout
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Floats, Matches
from attractor_server.memories.records import NOTHING, Item

AT_A_TIME = 1 << 22
"""Differences of single values between two stops, about"""

ROWS = 16
"""Values that are compared in one call with patterns of a large page, at least"""


def find_matches(kept: PatternCache, memory: MemoryRecord, layout: Layout, values: Floats) -> Stops[Matches]:
    """Find the nearest kept pattern to each of the values (n, d); the distance is infinite where none is kept.

    With a stop after each page, and in pages with many patterns.

    Raises:
        ServerError: the store cannot be read, or is damaged.
    """
    nearest = np.zeros_like(values)
    squares = np.full(len(values), np.inf)
    items: list[Item] = [NOTHING] * len(values)
    wide = max(1, AT_A_TIME // (ROWS * values.shape[1]))
    for page in list(memory.pages):
        if (patterns := kept.of(memory, page)) is None:
            continue
        for first in range(0, len(patterns.values), wide):
            part = patterns.values[first : first + wide]
            step = max(1, AT_A_TIME // part.size)
            for start in range(0, len(values), step):
                found = compute_distances(layout, values[start : start + step], part)
                best = found.argmin(1)
                least = found[np.arange(len(found)), best]
                for row in np.flatnonzero(least < squares[start : start + step]).tolist():
                    at = first + int(best[row])
                    nearest[start + row], items[start + row] = patterns.values[at], patterns.items[at]
                    squares[start + row] = least[row]
                yield
    return Matches(nearest, np.sqrt(squares).astype(np.float32), tuple(items))


def compute_distances(
    layout: Layout, values: Floats, others: Floats
) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Compute squared distances (n, m) of values (n, d) to others (m, d). A character that differs counts 2."""
    found = np.zeros((len(values), len(others)))
    for field, span in layout.spans:
        one, other = values[:, span].astype(np.float64), others[:, span].astype(np.float64)
        if field.has_codes:
            found += 2.0 * (one[:, None] != other[None]).sum(-1)
        else:
            products = one @ other.T
            found += np.square(one).sum(1)[:, None] - 2 * products + np.square(other).sum(1)
    return np.maximum(found, 0.0)
