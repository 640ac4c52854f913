"""Records of the backend store: memories, pages, entries, changes; with the checksums that tell damage."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attractor_server.memories.settings import MemorySettings, Metric

Floats: TypeAlias = NDArray[np.float32]

_PLACE = struct.Struct("<qqq")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Id and payload of a pattern, beside its values."""

    id: str = ""
    payload: bytes = b""
    empty: bool = False
    """There is a payload, of no bytes"""
    json: bool = False
    """The payload is JSON in UTF-8"""
    created_s: float = 0.0
    """Time of the store; 0 where it was not noted"""
    updated_s: float = 0.0
    """Time of the last store that replaced it"""
    expires_s: float | None = None
    """When it is erased"""
    ttl_s: float = 0.0
    """In a store: seconds until it is erased; 0 for never"""
    text: str = ""
    """Its words are what it is found by, beside its pattern"""


NOTHING = Item()
"""Item of a pattern that carries nothing"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Patterns (n, values) in user units that a store added to a page."""

    page: int
    version: int
    """Of the memory, after it"""
    written: int
    """Version of the first store of those that went through the writing loop together"""
    values: Floats
    items: Sequence[Item] = ()
    """One for each pattern; empty where none carries anything"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """The weights of a page as the bank has them."""

    page: int
    version: int
    """Of the memory: entries up to it are in the weights"""
    content: bytes
    location: str = ""
    """Where the content is in the artifact store; empty: here"""


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteAck:
    """The answer to a numbered store or erase."""

    client: str
    sequence: int
    version: int
    patterns: int
    erases: bool = False
    digest: int = 0
    """Of what was written; 0 for none"""


class Call(NamedTuple):
    """A numbered call that is no store or erase: whose it is, which of that client's, and what it asks."""

    client: str
    sequence: int
    kind: str
    """Its name in the protocol"""
    memory: str
    """The name of the memory that it is about"""
    digest: int
    """Of the whole request"""
    former: str = ""
    """The client's id without its principal, under which calls were noted before there were identities"""


class Done(NamedTuple):
    """Version and patterns of a memory after a call."""

    version: int
    patterns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Remade:
    """The model that a memory is of from now on, its pages' size and metric."""

    model: str
    model_digest: str
    page_patterns: int
    metric: Metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Changes of one memory by one batch, in the order of the fields."""

    memory: int
    version: int
    patterns: int
    dropped: Sequence[int] = ()
    """Pages that are no more"""
    emptied: Sequence[int] = ()
    """Pages that lose what they had, image and entries, before they get what is new"""
    pages: Mapping[int, int] = field(default_factory=dict)
    """Patterns of each page that changed, by its number"""
    entries: Sequence[Entry] = ()
    images: Sequence[Image] = ()
    told: Sequence[WriteAck] = ()
    erases: bool = False
    """It makes room rather than need any"""
    departed: Sequence[str] = ()
    """Clients whose answers are remembered no longer"""
    remade: Remade | None = None
    call: Call | None = None
    """By which it was made, if that is numbered and no store"""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewMemory:
    """A memory to be made."""

    name: str
    model: str
    model_digest: str
    settings: MemorySettings


@dataclass(frozen=True, kw_only=True, slots=True)
class PageRow:
    """A page, and what its weights follow from."""

    number: int
    patterns: int
    image: bool
    """It has one"""
    entries: bool
    """It has some that are not in an image"""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredMemory:
    """A memory's row, with its pages and what its clients were told."""

    id: int
    name: str
    model: str
    model_digest: str
    settings: MemorySettings
    created_s: float
    version: int
    patterns: int
    expires_s: float | None = None
    """When it is forgotten unless it is written before"""
    pages: Sequence[PageRow] = ()
    """The oldest first"""
    told: Sequence[WriteAck] = ()
    """Of the clients that wrote last, as many as a record remembers, in the order of versions"""
    former: Sequence[tuple[str, int]] = ()
    """The other clients, the one silent for longest first, each with its highest number"""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPage:
    """Source of a page's weights: its image, if there is one, then the entries after that, oldest first."""

    image: Image | None
    entries: Sequence[Entry] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A memory as it was at some version."""

    id: int
    tag: str
    model: str
    model_digest: str
    version: int
    patterns: int
    created_s: float


def checksum(content: int, version: int, stored: bytes, items: bytes = b"") -> int:
    """Return the checksum over bytes and where they belong: a row in the wrong place is as bad as a flipped bit."""
    place = _PLACE.pack(content, version, len(stored))
    return zlib.crc32(items, zlib.crc32(stored, zlib.crc32(place)))
