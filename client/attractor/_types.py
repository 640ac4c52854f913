"""Types of arguments and results of the SDK, and the table of field kinds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attractor._errors import InvalidRequest
from attractor._text import decode_texts
from attractor_proto.v1 import memories_pb2 as pb

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
"""bytes, or anything that JSON can say, which comes back as it was; None for none"""

WriteMode = Literal["rewrite", "stream"]
WhenFull = Literal["grow", "refuse", "forget"]
Retain = Literal["all", "open_page"]
Metric = Literal["own", "model"]
RecallBy = Literal["posterior", "network"]
OnConflict = Literal["append", "replace", "refuse", "keep"]
FieldKind = Literal["vector", "image", "text", "audio"]
_FLOATS_OR_BYTES = ("float32", "float64", "float16", "bfloat16", "uint8")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of field: its number in the contract, and how its values are given."""

    number: pb.FieldKind.ValueType
    dtypes: tuple[str, ...] = _FLOATS_OR_BYTES
    """Names of the numpy dtypes that are taken"""
    uint8_unit: int = 1
    """Number in a uint8 array that means 1"""
    has_alphabet: bool = False
    """Whether values are texts, sent as indices into the field's alphabet"""


KINDS: Mapping[FieldKind, Kind] = MappingProxyType(
    {
        "vector": Kind(number=pb.FIELD_KIND_VECTOR),
        "image": Kind(number=pb.FIELD_KIND_IMAGE, uint8_unit=255),
        "text": Kind(number=pb.FIELD_KIND_TEXT, has_alphabet=True),
        "audio": Kind(number=pb.FIELD_KIND_AUDIO),
    }
)


def find_kind(number: int) -> FieldKind:
    """Return the kind with that number in the contract; a vector if this client does not know it."""
    return next((name for name, kind in KINDS.items() if kind.number == number), "vector")


@dataclass(frozen=True, kw_only=True)
class AudioFormat:
    """Parameters of log-mel frames, (frames, mels) in decibels; `attractor.audio` makes them of sound, and back."""

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
    """A named part of every pattern of a model, with its shape in one pattern."""

    name: str
    kind: FieldKind
    shape: tuple[int, ...]
    alphabet: str = ""
    """Characters of a text field."""
    audio: AudioFormat | None = None
    """Format of an audio field that holds log-mel frames."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A meta-trained model, of which a server makes memories."""

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
    has_metric: bool = False
    """Whether its memories can see vectors in their own metric."""

    @cached_property
    def _alphabets(self) -> Mapping[str, str]:
        """Alphabets of the text fields, by name."""
        return {field.name: field.alphabet for field in self.fields if field.alphabet}

    @cached_property
    def _pattern_bytes(self) -> int:
        """Approximate length of a completed pattern in a message: four bytes an entry and the scores."""
        return 16 + 4 * sum(math.prod(field.shape) for field in self.fields)


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Settings of a memory for its whole life: how it is written, and what happens when it is full."""

    write: WriteMode
    """"rewrite": each store writes the open page anew, all its patterns at once, so that those that come one at a time
    are held as well as those that come together. "stream": each store adds to what is written."""
    when_full: WhenFull
    """Policy for a store that the open page has no room for. "grow": it goes to another page. "refuse": it fails with
    MemoryFull. "forget": it goes to another page, and the one that was full before this one is forgotten."""
    page_patterns: int
    """Patterns that one page takes before the next is opened."""
    retain: Retain = "all"
    """Patterns that the server keeps: "all", or those of the "open_page", and of full pages the weights alone.
    Payloads, exact erasing and `rebuild` need them."""
    metric: Metric = "model"
    """Metric in which vectors are told apart: each page's "own", of the vectors that it keeps, so that those that are
    alike are kept apart; or that of the "model"'s training data. Of models with `has_metric`."""
    recall: RecallBy = "posterior"
    """What answers: the network's reading and the kept patterns, weighed by one another as a "posterior", or the
    "network" alone, as it does in any case where not all patterns are kept, or the model has no posterior."""
    ttl_s: float | None = None
    """Seconds after the last write, or else its creation, when the memory is forgotten; None for never."""


@dataclass(frozen=True, kw_only=True)
class MemoryInfo:
    """Description of a memory."""

    name: str
    model: str
    model_digest: str
    version: int
    """Number of applied stores and erases."""
    patterns: int
    """Patterns stored so far, less those erased and those of forgotten pages."""
    pages: int
    """Number of pages, each a set of fast weights."""
    settings: MemorySettings
    created: datetime
    expires: datetime | None = None
    """Time when it is forgotten unless it is written before; None for never."""


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """Description of a snapshot."""

    tag: str
    version: int
    """Version of the memory when the snapshot was taken."""
    patterns: int
    created: datetime


@dataclass(frozen=True)
class StoreResult:
    """The memory after a store: its version, and the number of patterns in it."""

    version: int
    total: int
    existing: tuple[str | None, ...] = ()
    """With `unless_similar`: for each pattern the id of the similar one for which it was left out; None where it was
    stored. Empty in the answer to a repeat"""


@dataclass(frozen=True)
class EraseResult:
    """The memory after an erase: its version, and the number of patterns left in it."""

    version: int
    total: int
    erased: int | None = None
    """Items that were erased, where ids or conditions named them; None for the answer to a repeat"""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Every iterate of a query, from step 0, the cue, to the answer.

    There are steps + 1 of the network; where kept patterns take part, the answer comes after them.
    """

    fields: Mapping[str, Floats]
    """Field name to iterates: (iterates, *shape) for a single cue, (iterates, patterns, *shape) for a batch."""
    energy: Floats
    """(iterates) or (iterates, patterns); an answer in which kept patterns take part has that of the last reading"""

    @property
    def pattern(self) -> Floats:
        """Iterates of a model's single field.

        Raises:
            InvalidRequest: the model has several fields.
        """
        return _get_single(self.fields)


@dataclass(frozen=True, eq=False)
class Matches:
    """The kept pattern that is meant most probably, or several, the first of them first, with ids and payloads.

    Of several, arrays and lists have an axis (matches) behind that of the patterns. Where the network answers alone
    they are those nearest to its answer.
    """

    fields: Mapping[str, Floats]
    """Field name to values, as in the recall; zeros where no more are kept"""
    distance: Floats
    """Euclidean distance from what was recalled, () or (patterns): a character that differs counts 2 in the sum of
    squares; infinite where no more are kept."""
    id: str | list[str] | list[list[str]]
    """Id of the pattern; a list where the cues came as a batch, or of several matches, as is `payload`."""
    payload: Payload | list[Payload] | list[list[Payload]]
    """Payload of the pattern: bytes, or a JSON value; None for none."""
    alphabets: Mapping[str, str] = field(default_factory=dict)
    """Alphabets of the model's text fields, by name"""
    probability: Floats | None = None
    """Probability that the cue is of this pattern, as `distance`; None where the network answers alone."""

    @property
    def pattern(self) -> Floats:
        """Values of a model's single field.

        Raises:
            InvalidRequest: the model has several fields.
        """
        return _get_single(self.fields)

    def text(self, name: str = "") -> str | list[str]:
        """Return a kept text, or a list of them where the cues came as a batch.

        Raises:
            InvalidRequest: the model has no such text field.
        """
        return _decode_text(self.fields, self.alphabets, name)


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptItem:
    """An item that a memory keeps."""

    id: str
    """Empty for none"""
    payload: Payload
    """bytes, or a JSON value; None for none"""
    has_pattern: bool
    """Whether there is a pattern, which queries recall"""
    words: str = ""
    """Text whose words a search finds it by; empty for none"""
    created: datetime | None
    """Time of the store; None where neither id nor payload came with it, or the server was older"""
    updated: datetime | None
    """Time of the last store that replaced it, or else of the first"""
    expires: datetime | None
    """When it is erased; None for never"""
    fields: Mapping[str, Floats]
    """Field name to the pattern's values, (*shape); empty unless asked for"""
    alphabets: Mapping[str, str] = field(default_factory=dict)
    """Alphabets of the model's text fields, by name"""

    @property
    def pattern(self) -> Floats:
        """Values of a model's single field.

        Raises:
            InvalidRequest: the model has several fields, or values were not asked for.
        """
        return _get_single(self.fields)

    def text(self, name: str = "") -> str | list[str]:
        """Return a kept text.

        Raises:
            InvalidRequest: the model has no such text field.
        """
        return _decode_text(self.fields, self.alphabets, name)


@dataclass(frozen=True, eq=False)
class Recall:
    """Completed patterns. Arrays have a first axis (patterns) where the cues came as a batch."""

    fields: Mapping[str, Floats]
    """Field name to completed values: (*shape) or (patterns, *shape); of a text the indices into its alphabet."""
    energy_before: Floats
    """Energy of the cue: () or (patterns)."""
    energy_after: Floats
    """Energy of the completed pattern: () or (patterns)."""
    delta_energy: Floats
    """Energy of the cue less its energy in an empty memory, () or (patterns): the lower, the more familiar."""
    steps: Integers
    """Reading steps taken: () or (patterns)."""
    page: Integers
    """Page of the memory that answered, from 0, the oldest: () or (patterns). Where kept patterns take part, and one is
    probably meant, its page."""
    trajectory: Trajectory | None = None
    """Set where the query asked for it."""
    alphabets: Mapping[str, str] = field(default_factory=dict)
    """Alphabets of the model's text fields, by name"""
    match: Matches | None = None
    """Set where the query asked for it."""
    probability: Floats | None = None
    """Probability that the cue is of a kept pattern, if as many are as are not: () or (patterns). None where the
    network answered alone."""

    @property
    def pattern(self) -> Floats:
        """Completed values of a model's single field: (*shape) or (patterns, *shape).

        Raises:
            InvalidRequest: the model has several fields.
        """
        return _get_single(self.fields)

    @property
    def texts(self) -> Mapping[str, str | list[str]]:
        """Completed texts of all text fields, by name."""
        return {name: self.text(name) for name in self.alphabets}

    def text(self, name: str = "") -> str | list[str]:
        """Return a completed text without the spaces at its end, or a list of them where the cues came as a batch.

        `name` may be left out where the model has a single text field.

        Raises:
            InvalidRequest: the model has no such text field.
        """
        return _decode_text(self.fields, self.alphabets, name)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Familiarity of patterns to a memory; () for a single pattern, (patterns) for a batch."""

    energy: Floats
    delta_energy: Floats
    """Energy in this memory less energy in an empty one: the lower, the more familiar."""
    page: Integers
    """Page of the memory that knows the pattern best, from 0, the oldest."""
    probability: Floats | None = None
    """Probability that the pattern is stored, if half of those asked for are. By the patterns that are kept, or else
    from the model's calibration on validation data; None where it has none."""


@dataclass(frozen=True, eq=False)
class Cue:
    """Cues with their own mask, for a stream's `query`."""

    cues: Patterns
    known: Patterns | Literal[False] | None = None
    """None: that of the stream; False: nothing is held."""


def _get_single(fields: Mapping[str, Floats]) -> Floats:
    if len(fields) != 1:
        raise InvalidRequest.of("pattern", f"the model has the fields {sorted(fields)}; take one of `fields`")
    return next(iter(fields.values()))


def _decode_text(fields: Mapping[str, Floats], alphabets: Mapping[str, str], name: str) -> str | list[str]:
    if not name and len(alphabets) == 1:
        (name,) = alphabets
    if name not in alphabets:
        raise InvalidRequest.of("text", f"saw {name!r}; expected one of the text fields {sorted(alphabets)}")
    return decode_texts(fields[name], alphabets[name])
