"""Results of a text memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from attractor_agents.encoders import Floats

KNOWN = 0.5
"""Probability from which something is known"""

Metadata: TypeAlias = Mapping[str, Any]
"""What JSON can say, by name"""


@dataclass(frozen=True, kw_only=True)
class Note:
    """A text that is remembered."""

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)
    created: datetime | None = None
    updated: datetime | None = None
    """Time of the last correction, or else of its creation"""
    expires: datetime | None = None
    """Time when it is forgotten; None for never"""


@dataclass(frozen=True, kw_only=True)
class Hit(Note):
    """A text that was found."""

    probability: float
    """Probability that this one is meant"""
    similarity: float
    """Cosine of its vector, or of the best of its parts', and the question's"""


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A text near a vector."""

    note: Note
    similarity: float
    """Cosine of the two vectors"""
    vector: Floats
    """Of the text, or of the best of its parts, (384)"""


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """Answer to a question: what is remembered about it, the most probable first."""

    hits: Sequence[Hit]
    probability: float
    """Probability that anything that is remembered is meant"""
    total: int
    """Texts that were looked at"""
    unavailable: bool = False
    """Whether the server could not be asked, and the memory is set to go on without it"""

    @property
    def known(self) -> bool:
        """Whether something is remembered about it, more probably than not."""
        return self.probability >= KNOWN


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """Result of remembering a text."""

    id: str
    """Of the text; where it is not new, of the one that was there"""
    new: bool
    """False: about the same text was there already, and nothing was stored"""
    nearest: Hit | None = None
    """The most probable text that was there before; None where there was none"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Answer to whether a text is known."""

    probability: float
    """Probability that this text, or one that says about the same, is remembered"""
    nearest: Hit | None = None
