"""Images that may have been moved: the scores of kept patterns as if they had been, see `energy.posterior`."""

import numpy as np

from attractor_server.energy.posterior import REACH, SLIGHT, Area
from attractor_server.engine import compute
from attractor_server.engine.operations.read_cues import ReadCues
from attractor_server.engine.operations.scores import NEGLIGIBLE, Scored
from attractor_server.memories.outcomes import Floats, Integers

MOST = 4.0
"""The logarithm of a mean square beyond which no image is like another"""


def move_images(scored: Scored, cues: ReadCues, area: Area, weight: float, offset: float) -> None:
    """Add to scores, in place, what they are for images that have been moved, where that can matter.

    It cannot where even an exact match would be far behind the best pattern as it stands.
    """
    leads = np.maximum.reduceat(scored.scores, scored.starts[:-1]) - np.float32(NEGLIGIBLE)
    rows = np.flatnonzero(offset - weight * np.log(SLIGHT) > leads)
    if not len(rows) or weight <= 0:
        return
    there = np.isin(scored.row, rows)
    row = np.searchsorted(rows, scored.row[there])
    some = compute.pair(scored.pairs.views, scored.pairs.view[there], row)
    given = None if cues.given is None else np.ascontiguousarray(cues.given[rows])
    count = _count_middle(cues.given, area, rows)
    limits = (np.exp(np.minimum((offset - leads[rows]) / weight, MOST)) - SLIGHT) * count
    squares = some.move(np.ascontiguousarray(cues.u[rows]), given, area, limits.astype(np.float32))
    counts = np.repeat(count[row], some.counts)
    moved = offset - weight * np.log(SLIGHT + squares / counts)
    moved[squares >= np.repeat(limits.astype(np.float32)[row], some.counts)] = -np.inf
    places = np.repeat(there, scored.counts)
    scored.scores[places] = np.logaddexp(scored.scores[places], moved.astype(np.float32))


def _count_middle(given: Floats | None, area: Area, rows: Integers) -> Floats:
    """Return how many values of the image's middle are given, at least 1, (rows,)."""
    channels = (area.span.stop - area.span.start) // (area.height * area.width)
    if given is None:
        size = (area.height - 2 * REACH) * (area.width - 2 * REACH) * channels
        return np.full(len(rows), size, np.float32)
    images = given[rows, area.span].reshape(len(rows), area.height, area.width, channels)
    middle = images[:, REACH : area.height - REACH, REACH : area.width - REACH]
    return np.asarray(np.maximum(middle.sum((1, 2, 3)), 1), np.float32)
