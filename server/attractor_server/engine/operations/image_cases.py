"""Images that may have been moved or covered: scores of kept patterns as if they had been, see `energy.posterior`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from attractor_server.energy.posterior import REACH, SLIGHT, Area, measure_variation
from attractor_server.engine import compute
from attractor_server.engine.operations.read_cues import ReadCues
from attractor_server.engine.operations.scores import NEGLIGIBLE, Scored
from attractor_server.memories.outcomes import Booleans, Floats, Integers

MOST = 4.0
"""The logarithm of a mean square beyond which no image is like another"""


@dataclass(frozen=True, eq=False)
class _Case:
    """Images of some cues as if one thing had been done to them."""

    count: Floats
    """(rows,): values that are compared"""
    measure: Callable[[compute.Pairs, Floats], Floats]
    """Return the sums of squares of pairs, or the row's limit where none is below that"""


def add_cases(scored: Scored, cues: ReadCues, area: Area, cases: Sequence[Sequence[float]]) -> None:
    """Add to scores, in place, what they are for images that have been moved or covered, where that can matter."""
    for find_case, (weight, offset) in zip((_find_moved, _find_covered), cases, strict=True):
        if weight > 0:
            _add_case(scored, partial(find_case, cues, area), weight, offset)


def _add_case(scored: Scored, find_case: Callable[[Integers], _Case], weight: float, offset: float) -> None:
    """Add one case, in place.

    It cannot matter where even an exact match would be far behind the best pattern as it stands.
    """
    leads = np.maximum.reduceat(scored.scores, scored.starts[:-1]) - np.float32(NEGLIGIBLE)
    rows = np.flatnonzero(offset - weight * np.log(SLIGHT) > leads)
    if not len(rows):
        return
    case = find_case(rows)
    limits = ((np.exp(np.minimum((offset - leads[rows]) / weight, MOST)) - SLIGHT) * case.count).astype(np.float32)
    there = np.isin(scored.row, rows)
    row = np.searchsorted(rows, scored.row[there])
    some = compute.pair(scored.pairs.views, scored.pairs.view[there], row)
    squares = case.measure(some, limits)
    of = np.repeat(row, some.counts)
    found = offset - weight * np.log(SLIGHT + squares / case.count[of])
    found[squares >= limits[of]] = -np.inf
    places = np.repeat(there, scored.counts)
    scored.scores[places] = np.logaddexp(scored.scores[places], found.astype(np.float32))


def _find_moved(cues: ReadCues, area: Area, rows: Integers) -> _Case:
    images, given = _take(cues, rows)
    middle = np.zeros((area.height, area.width), np.bool_)
    middle[REACH : area.height - REACH, REACH : area.width - REACH] = True
    count = _count(given, area, len(rows), middle)
    return _Case(count, lambda pairs, limits: pairs.move(images, given, area, limits))


def _find_covered(cues: ReadCues, area: Area, rows: Integers) -> _Case:
    images, given = _take(cues, rows)
    variation = measure_variation(cues.prepared[rows][:, area.span], area).float().cpu().numpy()
    count = _count(given, area, len(rows), np.ones((area.height, area.width), np.bool_))
    return _Case(count, lambda pairs, limits: pairs.cover(images, given, area, variation, limits))


def _take(cues: ReadCues, rows: Integers) -> tuple[Floats, Floats | None]:
    given = None if cues.given is None else np.ascontiguousarray(cues.given[rows])
    return np.ascontiguousarray(cues.u[rows]), given


def _count(given: Floats | None, area: Area, rows: int, where: Booleans) -> Floats:
    """Return how many values of each image are given in that part (height, width), at least 1, (rows,)."""
    channels = (area.span.stop - area.span.start) // where.size
    if given is None:
        return np.full(rows, channels * where.sum(), np.float32)
    images = given[:, area.span].reshape(rows, *where.shape, channels)
    return np.asarray(np.maximum(images[:, where].sum((1, 2)), 1), np.float32)
