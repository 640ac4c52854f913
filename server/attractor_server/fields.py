"""Fields: the named parts of a pattern, and how they lie side by side in one flat vector."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["vector", "image", "text", "audio"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class AudioFormat:
    """How the log-mel frames of an audio field, (frames, mels), come from sound."""

    sample_rate_hz: int
    window: int
    """Samples under one frame"""
    hop: int
    """Samples from one frame to the next"""
    mels: int
    low_hz: float
    high_hz: float


@dataclass(frozen=True, kw_only=True)
class Field:
    """A named part of a pattern, in the units its user sends and gets back."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    minimum: float = -1e6
    """Values below are refused: a guard against wrong units, wide enough for noisy cues"""
    maximum: float = 1e6
    alphabet: str = ""
    """Of a text field: a character is sent as its place in here"""
    audio: AudioFormat | None = None
    """Of an audio field that holds log-mel frames"""

    @property
    def size(self) -> int:
        """Entries of one pattern's part."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Where each field stands in the flat vector of one pattern, in the order of `fields`."""

    fields: tuple[Field, ...]

    @property
    def size(self) -> int:
        """Entries of one whole pattern (d)."""
        return sum(field.size for field in self.fields)

    @property
    def spans(self) -> Sequence[tuple[Field, slice]]:
        """Each field with its columns in the flat vector."""
        spans: list[tuple[Field, slice]] = []
        start = 0
        for field in self.fields:
            spans.append((field, slice(start, start + field.size)))
            start += field.size
        return spans

    def field(self, name: str) -> Field | None:
        """The field of that name, if there is one."""
        return next((field for field in self.fields if field.name == name), None)
