"""What an erase does to the pages of its memory: worked out before anything is computed or applied."""

from dataclasses import dataclass, field

import numpy as np

from attractor_server.engine.page import Page
from attractor_server.engine.work import Floats, Job
from attractor_server.errors import ServerError

TOLERANCE = 1e-5
"""How far two float32 values of one pattern may lie apart, relative to them"""


@dataclass(eq=False)
class Change:
    """What an erase does to one page: patterns (n, d) in user units."""

    page: Page
    kept: Floats | None = None
    """Those it is rewritten with; None where it is not rewritten"""
    erased: list[Floats] = field(default_factory=list)
    """Those that the eraser is given"""

    @property
    def count(self) -> int:
        """For the eraser."""
        return sum(map(len, self.erased))

    @property
    def before(self) -> int:
        """Patterns that the page has when the eraser begins."""
        return self.page.patterns if self.kept is None else len(self.kept)

    @property
    def empties(self) -> bool:
        """Whether it leaves the page as one never written."""
        return self.kept is not None and not len(self.kept)

    @property
    def left(self) -> int:
        """Patterns that the page has in the end."""
        return max(0, self.before - self.count)


@dataclass(eq=False)
class Erasure:
    """What one job erases. Nothing of it is applied before all its pages are computed."""

    job: Job
    rest: Floats
    """Patterns (n, d) whose page is not known yet"""
    changes: dict[Page, Change] = field(default_factory=dict)
    error: ServerError | None = None


def without(kept: Floats, erased: Floats) -> tuple[Floats, Floats]:
    """The kept patterns without those erased, one for one; and those erased that are not among them."""
    stays, found = np.ones(len(kept), np.bool_), np.zeros(len(erased), np.bool_)
    for row, pattern in enumerate(erased):
        same = np.flatnonzero(np.isclose(kept, pattern, rtol=TOLERANCE, atol=TOLERANCE).all(1) & stays)
        found[row] = bool(len(same))
        stays[same[:1]] = False
    return kept[stays], erased[~found]
