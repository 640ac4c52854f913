"""Matching: the patterns in a memory's store that are meant by a cue, or are nearest to what was recalled."""

import numpy as np
from numpy.typing import NDArray

from attractor_server.engine.batch import Stops
from attractor_server.engine.operations.scores import Ranked
from attractor_server.engine.pages.pattern_cache import PagePatterns, PatternCache
from attractor_server.fields import Layout
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Floats, Matches
from attractor_server.memories.records import NOTHING, Item

AT_A_TIME = 1 << 22
"""Differences of single values between two stops, about"""

ROWS = 16
"""Values that are compared in one call with patterns of a large page, at least"""


def find_matches(
    kept: PatternCache, memory: MemoryRecord, layout: Layout, values: Floats, *, each: int = 1
) -> Stops[Matches]:
    """Find the kept patterns nearest to each of the values (n, d), so many; the distance is infinite beyond all.

    With a stop after each page, and in pages with many patterns.

    Raises:
        ServerError: the store cannot be read, or is damaged.
    """
    nearest = np.zeros((len(values), each, values.shape[1]), np.float32)
    squares = np.full((len(values), each), np.inf)
    items: list[list[Item]] = [[NOTHING] * each for _ in values]
    wide = max(1, AT_A_TIME // (ROWS * values.shape[1]))
    for page in list(memory.pages):
        if (patterns := kept.of(memory, page)) is None:
            continue
        for first in range(0, len(patterns.values), wide):
            part = patterns.values[first : first + wide]
            step = max(1, AT_A_TIME // part.size)
            for start in range(0, len(values), step):
                found = compute_distances(layout, values[start : start + step], part)
                for row in np.flatnonzero(found.min(1) < squares[start : start + step, -1]).tolist():
                    at = start + row
                    _merge_nearest(found[row], patterns, first, squares[at], nearest[at], items[at])
                yield
    flat = [item for row in items for item in row]
    return Matches(nearest.reshape(-1, values.shape[1]), np.sqrt(squares).astype(np.float32).ravel(), flat, each=each)


def _merge_nearest(  # noqa: PLR0913
    found: NDArray[np.float64],
    patterns: PagePatterns,
    first: int,
    squares: NDArray[np.float64],
    nearest: Floats,
    items: list[Item],
) -> None:
    """Merge the squared distances to a part of a page, from its pattern `first` on, into the least ones."""
    each = len(squares)
    own = np.argsort(found, kind="stable")[:each]
    both = np.concatenate([squares, found[own]])
    order = np.argsort(both, kind="stable")[:each].tolist()
    values, carried = np.concatenate([nearest, patterns.values[first + own]]), [*items, *own.tolist()]
    squares[:], nearest[:] = both[order], values[order]
    items[:] = [one if isinstance(one := carried[at], Item) else patterns.items[first + one] for at in order]


def list_matches(
    kept: PatternCache, memory: MemoryRecord, layout: Layout, values: Floats, ranked: Ranked
) -> Stops[Matches]:
    """List the patterns that are meant most probably by the cues that were answered by values (n, d).

    With a stop after each page.

    Raises:
        ServerError: the store cannot be read, or is damaged.
    """
    each = ranked.page.shape[1]
    found = np.zeros((len(values), each, values.shape[1]), np.float32)
    distances = np.full((len(values), each), np.inf, np.float32)
    items: list[list[Item]] = [[NOTHING] * each for _ in values]
    for number in np.unique(ranked.page[ranked.page >= 0]).tolist():
        if (patterns := kept.of(memory, memory.pages[number])) is None:
            continue
        for row, place in zip(*np.nonzero(ranked.page == number), strict=True):
            at = int(ranked.at[row, place])
            found[row, place], items[row][place] = patterns.values[at], patterns.items[at]
            own = compute_distances(layout, values[row : row + 1], patterns.values[at : at + 1])
            distances[row, place] = np.sqrt(own[0, 0])
        yield
    flat = [item for row in items for item in row]
    return Matches(found.reshape(-1, values.shape[1]), distances.ravel(), flat, ranked.probability.ravel(), each)


def compute_distances(layout: Layout, values: Floats, others: Floats) -> NDArray[np.float64]:
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
