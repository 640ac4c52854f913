"""Fields: the named parts of a pattern, and how they lie side by side in one flat vector."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MISSING_INDEX = 255
"""Index on the wire that stands for a missing character"""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of field: how its values are sent, checked, recalled and trained on."""

    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16", "uint8")
    """Types that are taken on the wire"""
    uint8_unit: int = 1
    """Number sent as uint8 that means 1"""
    has_alphabet: bool = False
    """Whether values are indices into the field's alphabet: each has a code, and none lies between two"""
    limits: tuple[float, float] = (-1e6, 1e6)
    """Least and greatest value of a data set's fields, with room for noise"""
    hint: str = ""
    """End of the error about values out of range: how they are sent"""
    recall_limits: tuple[float, float] | None = None
    """Least and greatest value that is recalled"""
    has_area: bool = False
    """Whether the first two dimensions are height and width, which a block can cover and a shift can move"""
    judged: tuple[float, float] | None = None
    """Factor and offset of values before they are judged, where that is not in their own units"""
    has_metric: bool = False
    """Whether a page may see its values in a metric of its own: they are a vector, whose directions mean something"""
    refits: bool = False
    """Whether a model behind a whitening can be fitted to other samples by that alone"""


KINDS: Mapping[str, Kind] = {
    "vector": Kind(has_metric=True, refits=True),
    "image": Kind(
        uint8_unit=255,
        limits=(-4.0, 5.0),
        hint="an image is sent as uint8, or as floats from 0 to 1",
        recall_limits=(0.0, 1.0),  # dark and bright
        has_area=True,
        judged=(2.0, -1.0),
    ),
    "text": Kind(dtypes=("uint8",), has_alphabet=True),
    "audio": Kind(),
}
"""Kinds by name, which the contract has as `FIELD_KIND_…`"""


@dataclass(frozen=True, kw_only=True)
class AudioFormat:
    """Parameters of the log-mel frames (frames, mels) of an audio field."""

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
    kind: str
    """Among `KINDS`"""
    shape: tuple[int, ...]
    minimum: float = -1e6
    """Values below are refused: a guard against wrong units, wide enough for noisy cues"""
    maximum: float = 1e6
    alphabet: str = ""
    """Characters of a text field, each sent as its place in here"""
    audio: AudioFormat | None = None
    """Format of an audio field that holds log-mel frames"""

    @property
    def size(self) -> int:
        """Entries of one pattern's part."""
        return math.prod(self.shape)

    @property
    def traits(self) -> Kind:
        """Row of its kind in the table."""
        return KINDS[self.kind]

    @property
    def has_codes(self) -> bool:
        """Whether its values are indices into its alphabet."""
        return bool(self.alphabet) and self.traits.has_alphabet


@dataclass(frozen=True)
class Layout:
    """Places of the fields in the flat vector of one pattern, in the order of `fields`."""

    fields: tuple[Field, ...]

    @property
    def size(self) -> int:
        """Entries of one whole pattern (d)."""
        return sum(field.size for field in self.fields)

    @property
    def spans(self) -> Sequence[tuple[Field, slice]]:
        """Fields with their columns in the flat vector."""
        spans: list[tuple[Field, slice]] = []
        start = 0
        for field in self.fields:
            spans.append((field, slice(start, start + field.size)))
            start += field.size
        return spans

    def field(self, name: str) -> Field | None:
        """Return the field of that name, if there is one."""
        return next((field for field in self.fields if field.name == name), None)
