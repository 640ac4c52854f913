"""Tasks on memories as the backend store has them: forks, snapshots, and writing anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from attractor_server.memories.settings import Metric

PART_PATTERNS = 64
"""On the account of whoever has a rebuild done in parts, for each"""


@dataclass(frozen=True)
class Fork:
    """Make a memory of that name with all that this one has, or had at a snapshot."""

    name: str
    tag: str = ""


@dataclass(frozen=True)
class TakeSnapshot:
    """Keep the memory as it is under a tag."""

    tag: str


@dataclass(frozen=True)
class ForgetSnapshot:
    """Keep it no longer."""

    tag: str


@dataclass(frozen=True)
class Restore:
    """Make the memory what it was at a snapshot."""

    tag: str


@dataclass(frozen=True)
class Rebuild:
    """Write the memory anew from its patterns."""

    model: str
    model_digest: str
    page_patterns: int
    metric: Metric


@dataclass(frozen=True)
class Touch:
    """Give the items with these ids another end, or none."""

    ids: Sequence[str]
    expires_s: float | None


Task: TypeAlias = Fork | TakeSnapshot | ForgetSnapshot | Restore | Rebuild | Touch
"""Task on a memory as the backend store has it"""
