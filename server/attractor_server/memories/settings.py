"""Settings of a memory: chosen when it is made, and kept."""

import math
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias, get_args

from attractor_server.errors import SettingsError, quote

WriteMode: TypeAlias = Literal["rewrite", "stream"]

WhenFull: TypeAlias = Literal["grow", "refuse", "forget"]

Retain: TypeAlias = Literal["all", "open_page"]

Metric: TypeAlias = Literal["own", "model"]

RecallBy: TypeAlias = Literal["posterior", "network"]

TTL_LIMIT_S = 250e9
"""Nearly 8,000 years: what ends after the year 9999 has no date that clients can be told of"""


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Settings of one memory.

    Raises:
        SettingsError: a value that cannot be meant.
    """

    write: WriteMode = "rewrite"
    """`rewrite`: the page that is being filled keeps its patterns, and each store computes it anew from the initial
    weights with all of them, so that recall is as good as after one store of all. `stream`: each store adds to the
    weights, and no pattern is kept."""
    when_full: WhenFull = "grow"
    """What a store meets whose patterns the page has no room for. `grow`: the page is sealed and the next one begun,
    without end. `refuse`: the memory has one page; the store fails and nothing of it is applied. `forget`: the memory
    has two pages at most, the one being filled and the one filled before it; whatever is older goes with its page."""
    page_patterns: int
    """Patterns that one page takes before it is sealed"""
    retain: Retain = "all"
    """Which patterns the backend store keeps. `all`: whatever was stored. `open_page`: those of the page that is being
    filled; of a sealed one the weights alone stay, and what needs patterns (payloads, exact erasing, another model) is
    no longer to be had."""
    metric: Metric = "model"
    """How vectors are told apart. `own`: each page that is rewritten sees them in the metric of those that it keeps, so
    that vectors that are alike are as far apart as those that the model was trained on. `model`: in the metric of its
    training data. Of no effect on other fields."""
    recall: RecallBy = "posterior"
    """What answers. `posterior`: the network's reading and the patterns that are kept, weighed by one another; where
    not all are kept, or the model has no posterior, the network alone. `network`: the network alone."""
    ttl_s: float | None = None
    """Seconds after the last write, or else the making, when the memory is forgotten; None for never"""

    def __post_init__(self) -> None:
        kinds = {"write": WriteMode, "when_full": WhenFull, "retain": Retain, "metric": Metric, "recall": RecallBy}
        for name, kind in kinds.items():
            if (seen := getattr(self, name)) not in (expected := get_args(kind)):
                raise SettingsError(f"{name}: saw {quote(seen)}; expected one of {', '.join(expected)}")
        if self.page_patterns < 1:
            raise SettingsError(f"page_patterns: saw {self.page_patterns}; expected at least 1")
        if self.ttl_s is not None and not 0 < self.ttl_s < math.inf:
            raise SettingsError(f"ttl_s: saw {self.ttl_s:g}; expected more than 0 seconds")

    @property
    def most_pages(self) -> int | None:
        """Pages a memory has at most; None for any number."""
        return {"grow": None, "refuse": 1, "forget": 2}[self.when_full]

    @property
    def framed(self) -> bool:
        """Whether its pages get frames: those that are written from all their patterns do."""
        return self.metric == "own" and self.write == "rewrite"

    @property
    def keeps_all(self) -> bool:
        """Whether a store keeps whatever was stored, and pages are written from it."""
        return self.retain == "all" and self.write == "rewrite"

    def seals(self, patterns: int) -> bool:
        """Return whether a page with so many patterns takes no more: one that refuses may get room by an erase."""
        return patterns >= self.page_patterns and self.when_full != "refuse"

    def difference(self, other: "MemorySettings") -> str:
        """Name the first setting that differs, with both values; "" where none does."""
        for name in (field.name for field in fields(self)):
            if (here := getattr(self, name)) != (there := getattr(other, name)):
                return f"{name} is {here}; asked for {there}"
        return ""
