"""Rows of the quality tables: one figure of one method each."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Table: TypeAlias = Literal[
    "quality", "patterns", "steps", "age", "precision", "erase", "repeats", "transfer", "pages", "seeds"
]
Family: TypeAlias = Literal["memory", "control", "rival"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a method reached on the test data, with 95 % intervals."""

    table: Table
    """`quality`, or the curve that this is a point of"""
    model: str
    cue: str
    count: int
    """Patterns in a memory (N)"""
    method: str
    family: Family
    """The model's memory; what needs no writing; other ways"""
    metric: str
    value: float
    interval: float
    """Half its width: of the mean over memories, or over seeds where there are several"""
    identified: float
    """Share of answers whose nearest stored pattern is the right one"""
    identified_interval: float
    auroc: float | None = None
    """Of ΔE, stored against unseen"""
    right_page: float | None = None
    """Share of cues that the right one of several pages answered"""
    bytes: int
    """Of one memory, without what all memories share"""
    at: float | None = None
    """Where on the curve: patterns, reading steps, age (0 newest, 1 oldest), bits"""
    memories: int
    seeds: int = 1

    def as_json(self) -> str:
        """One line; what is not finite is null."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }
        return json.dumps(finite, allow_nan=False)
