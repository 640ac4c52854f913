"""A page: what a bank and a store know of one fixed-size set of fast weights. No torch here."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

INITIAL = 0
"""Place of the initial fast weights, which every page reads from until something is written in it."""

next_id: Callable[[], int] = count(1).__next__


class Home(Protocol):
    """The bank that a page belongs to."""

    def release(self, page: "Page") -> None:
        """Forget the page; it is then like one never written."""


@dataclass(eq=False, slots=True)
class Page:
    """One set of fast weights of a memory. The bank alone changes `place`, `stored` and, once it has it, `home`."""

    place: int = INITIAL
    """In the bank; INITIAL where nothing was written yet, or where the page has left for the store"""
    stored: bool = False
    """The store holds the page as it is now; a page in the bank that is not stored must be saved before it leaves."""
    number: int = 0
    """Among the pages of its memory, in the order in which they were opened; never given twice"""
    patterns: int = 0
    """Patterns written in it"""
    kept: Floats | None = None
    """(patterns, d) in user units, of a page that is rewritten; leaves the host's memory together with the weights"""
    home: Home | None = None
    """The bank that has the page, or expects it; None where nothing was written yet"""
    writes: int = 0
    """How often its weights were written, and what it keeps with them"""
    id: int = field(default_factory=next_id)
    """What the store knows it by; of no other page in this process"""

    @property
    def written(self) -> bool:
        """Whether it differs from the initial weights."""
        return self.place != INITIAL or self.stored


def release(pages: Iterable[Page]) -> None:
    """Have each page's own bank forget it, whatever model its memory is of by now."""
    for page in pages:
        if page.home is not None:
            page.home.release(page)
