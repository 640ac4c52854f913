"""What the backend store keeps of a memory, with the checksums that tell damage."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attractor_server.errors import StoreDamaged
from attractor_server.storage.settings import MemorySettings

Floats: TypeAlias = NDArray[np.float32]
_PLACE = struct.Struct("<qqq")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Patterns (n, values) in user units that a store added to a page."""

    page: int
    version: int
    """Of the memory, after it"""
    written: int
    """Version of the first store of those that went through the writing loop together"""
    values: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """The weights of a page as the bank has them."""

    page: int
    version: int
    """Of the memory: entries up to it are in the weights"""
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """The answer to a numbered store or erase."""

    client: str
    sequence: int
    version: int
    patterns: int
    erases: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """All that one batch does to one memory, in the order of its fields."""

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
    told: Sequence[Told] = ()


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
    pages: Sequence[PageRow] = ()
    """The oldest first"""
    told: Sequence[Told] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPage:
    """What a page's weights follow from: its image, if there is one, then the entries after that, oldest first."""

    image: Image | None
    entries: Sequence[Entry] = ()


def checksum(memory: int, page: int, version: int, content: bytes) -> int:
    """Over the content and where it belongs: a row in the wrong place is as bad as a flipped bit."""
    return zlib.crc32(content, zlib.crc32(_PLACE.pack(memory, page, version)))


def checked(memory: int, page: int, version: int, content: bytes, seen: int) -> bytes:
    """The content.

    Raises:
        StoreDamaged: its checksum is another.
    """
    if checksum(memory, page, version, content) != seen:
        raise StoreDamaged(
            f"memory {memory}, page {page}, version {version}: what is stored has another checksum than it was "
            "stored with; restore the store from a backup, or delete the memory"
        )
    return content
