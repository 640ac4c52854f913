"""What users of the SDK get back, and what they may give."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attractor._errors import InvalidRequest
from attractor._text import strings

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.uint32]


class HasArray(Protocol):
    """Anything numpy can see as an array: numpy's own, tensors on the CPU, images."""

    def __array__(self) -> NDArray[Any]: ...


Array: TypeAlias = ArrayLike | HasArray
Patterns: TypeAlias = Array | Mapping[str, Array]
"""For a model of one field an array, else a mapping of field name to array; (*shape) or (patterns, *shape).

Of a text field a `str` or a list of them.
"""

Ids: TypeAlias = str | Sequence[str] | NDArray[np.str_]
Payload: TypeAlias = Any
"""bytes, or anything that JSON can say, where tuples come back as lists; None for none"""

WriteMode = Literal["rewrite", "stream"]
WhenFull = Literal["grow", "refuse", "forget"]
Retain = Literal["all", "open_page"]
FieldKind = Literal["vector", "image", "text", "audio"]


@dataclass(frozen=True, kw_only=True)
class AudioFormat:
    """How log-mel frames, (frames, mels) in decibels, come from sound: `attractor.audio` goes both ways."""

    sample_rate_hz: int
    window: int
    """Samples under one frame."""
    hop: int
    """Samples from one frame to the next."""
    mels: int
    """Bands."""
    low_hz: float
    """Lower edge of the first band."""
    high_hz: float
    """Upper edge of the last band."""


@dataclass(frozen=True, kw_only=True)
class FieldInfo:
    """A named part of every pattern of a model; `shape` is that of one pattern."""

    name: str
    kind: FieldKind
    shape: tuple[int, ...]
    alphabet: str = ""
    """Of a text field: the characters there are."""
    audio: AudioFormat | None = None
    """Of an audio field that holds log-mel frames."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What meta-training made and a server can instantiate."""

    name: str
    digest: str
    """"sha256:" and 64 hexadecimal digits, over the content of the model file."""
    fields: tuple[FieldInfo, ...]
    capacity: int
    """Patterns that one page of a memory holds at the rated error."""
    page_bytes: int
    """Bytes of fast weights of one page."""
    steps: int
    """Reading steps when a query asks for none."""
    training_record: Mapping[str, object]
    erases: bool = False
    """Whether its memories can erase patterns."""
    pulls: bool = False
    """Whether its queries can pull known entries towards the cue, rather than hold them."""

    @cached_property
    def _alphabets(self) -> Mapping[str, str]:
        """Of the text fields, by name."""
        return {field.name: field.alphabet for field in self.fields if field.alphabet}

    @cached_property
    def _pattern_bytes(self) -> int:
        """Length of a completed pattern on the wire, about: four bytes an entry and the scores."""
        return 16 + 4 * sum(math.prod(field.shape) for field in self.fields)


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """How a memory is written, and what it does when it is full; for its whole life."""

    write: WriteMode
    """"rewrite": each store writes the open page anew, all its patterns at once, so that those that come one at a time
    are held as well as those that come together. "stream": each store adds to what is written."""
    when_full: WhenFull
    """What becomes of a store that the open page has no room for. "grow": it goes to another page. "refuse": it fails
    with MemoryFull. "forget": it goes to another page, and the one that was full before this one is forgotten."""
    page_patterns: int
    """Patterns that one page takes before the next is opened."""
    retain: Retain = "all"
    """Which patterns the server keeps of what was stored: "all", or those of the "open_page", of full ones the weights
    alone. Payloads, exact erasing and `Memory.rebuild` need them."""
    ttl_s: float | None = None
    """Seconds after the last write, or else the making, when the memory is forgotten; None for never."""


@dataclass(frozen=True, kw_only=True)
class MemoryInfo:
    """A memory as the server lists it."""

    name: str
    model: str
    model_digest: str
    version: int
    """Counts applied stores and erases."""
    patterns: int
    """Patterns stored so far, less those erased and those of forgotten pages."""
    pages: int
    """Sets of fast weights that they lie in."""
    settings: MemorySettings
    created: datetime
    expires: datetime | None = None
    """When it is forgotten unless it is written before; None for never."""


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """A memory as it was kept under a tag."""

    tag: str
    version: int
    """Of the memory when the snapshot was taken."""
    patterns: int
    created: datetime


@dataclass(frozen=True)
class StoreResult:
    """The memory after a store: its version, and the patterns in it."""

    version: int
    total: int


@dataclass(frozen=True)
class EraseResult:
    """The memory after an erase: its version, and the patterns left in it."""

    version: int
    total: int


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Every iterate of a query, from step 0, the cue, on."""

    fields: Mapping[str, Floats]
    """Field name to iterates: (steps + 1, *shape) for a single cue, (steps + 1, patterns, *shape) for a batch."""
    energy: Floats
    """(steps + 1) or (steps + 1, patterns)"""

    @property
    def pattern(self) -> Floats:
        """The iterates of a model's single field.

        Raises:
            InvalidRequest: the model has several fields.
        """
        return _single(self.fields)


@dataclass(frozen=True, eq=False)
class Matches:
    """Of the patterns that the server keeps for a memory, the one nearest to each completed pattern."""

    fields: Mapping[str, Floats]
    """As those of the recall; zeros where nothing is kept"""
    distance: Floats
    """Euclidean, () or (patterns): a character that differs counts 2 in the sum of squares; infinite where nothing is
    kept."""
    id: str | list[str]
    """What it was stored under; a list where the cues came as a batch, as is `payload`."""
    payload: Payload | list[Payload]
    """What it was stored with: bytes, or what JSON said; None for nothing."""
    alphabets: Mapping[str, str] = field(default_factory=dict)
    """Of the model's text fields, by name"""

    @property
    def pattern(self) -> Floats:
        """The values of a model's single field.

        Raises:
            InvalidRequest: the model has several fields.
        """
        return _single(self.fields)

    def text(self, name: str = "") -> str | list[str]:
        """A kept text, as `Recall.text` has the completed one.

        Raises:
            InvalidRequest: the model has no such text field.
        """
        return _text(self.fields, self.alphabets, name)


@dataclass(frozen=True, eq=False)
class Recall:
    """Completed patterns. Arrays have a first axis (patterns) where the cues came as a batch."""

    fields: Mapping[str, Floats]
    """Field name to completed values: (*shape) or (patterns, *shape); of a text the places in its alphabet."""
    energy_before: Floats
    """Of the cue: () or (patterns)."""
    energy_after: Floats
    """Of the completed pattern: () or (patterns)."""
    delta_energy: Floats
    """Energy of the cue less its energy in an empty memory, () or (patterns): the lower, the more familiar."""
    steps: Integers
    """Reading steps taken: () or (patterns)."""
    page: Integers
    """Which page of the memory answered, from 0, the oldest: () or (patterns)."""
    trajectory: Trajectory | None = None
    """Set where the query asked for it."""
    alphabets: Mapping[str, str] = field(default_factory=dict)
    """Of the model's text fields, by name"""
    match: Matches | None = None
    """Set where the query asked for it."""

    @property
    def pattern(self) -> Floats:
        """The completed values of a model's single field: (*shape) or (patterns, *shape).

        Raises:
            InvalidRequest: the model has several fields.
        """
        return _single(self.fields)

    @property
    def texts(self) -> Mapping[str, str | list[str]]:
        """For each text field what `text` says."""
        return {name: self.text(name) for name in self.alphabets}

    def text(self, name: str = "") -> str | list[str]:
        """A completed text without the spaces at its end, or a list of them where the cues came as a batch.

        `name` may be left out where the model has a single text field.

        Raises:
            InvalidRequest: the model has no such text field.
        """
        return _text(self.fields, self.alphabets, name)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How well a memory knows patterns; () for a single pattern, (patterns) for a batch."""

    energy: Floats
    delta_energy: Floats
    """Energy in this memory less energy in an empty one: the lower, the more familiar."""
    page: Integers
    """Which page of the memory knows the pattern best, from 0, the oldest."""
    probability: Floats | None = None
    """From 0 to 1: that the pattern is stored, where as many are asked for that are as that are not. As the model was
    calibrated on validation data; None where it was not."""


@dataclass(frozen=True, eq=False)
class Cue:
    """Cues with their own mask, for `MemoryStream.query`."""

    cues: Patterns
    known: Patterns | None = None


def _single(fields: Mapping[str, Floats]) -> Floats:
    if len(fields) != 1:
        raise InvalidRequest.of("pattern", f"the model has the fields {sorted(fields)}; take one of `fields`")
    return next(iter(fields.values()))


def _text(fields: Mapping[str, Floats], alphabets: Mapping[str, str], name: str) -> str | list[str]:
    if not name and len(alphabets) == 1:
        (name,) = alphabets
    if name not in alphabets:
        raise InvalidRequest.of("text", f"saw {name!r}; expected one of the text fields {sorted(alphabets)}")
    return strings(fields[name], alphabets[name])
