"""Searches among what memories keep, and what they find."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from attractor_server.memories.filters import EVERYTHING, Filter
from attractor_server.memories.records import Floats, Item

SearchBy: TypeAlias = Literal["posterior", "cue"]
"""What hits are ranked by"""


@dataclass(frozen=True, kw_only=True)
class SearchQuery:
    """Request of a search, besides its cue."""

    size: int
    """Hits at most"""
    filter: Filter = EVERYTHING
    by: SearchBy = "posterior"
    words: str = ""
    """Text whose words items' texts may have"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """An item that was found."""

    item: Item
    page: int
    """Number of its page in the memory, from 0, the oldest"""
    score: float
    """What it was ranked by"""
    values: Floats
    """(d,) in user units; (0,) of an item without a pattern"""
    probability: float | None = None
    """That the cue is of it; None without a cue, or where the model has no posterior"""
    distance: float | None = None
    """From the cue, in the metric of its page; None without a cue or a pattern"""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Hits of a search, the best first."""

    hits: Sequence[Hit] = ()
    log_odds: float | None = None
    """That the cue is of anything that was looked at; None where hits have no probability"""
    total: int = 0
    """Items that were looked at and that the filter matches"""
