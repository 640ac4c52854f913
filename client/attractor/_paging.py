"""How a memory is written and what it does when it is full, in the words of the user and in those of the contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from attractor._errors import InvalidRequest
from attractor_proto.v1 import memories_pb2 as pb

WriteMode = Literal["rewrite", "stream"]
WhenFull = Literal["grow", "refuse", "forget"]

_PAGE_PATTERNS_LIMIT = 2**32 - 1


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


_WRITES: dict[WriteMode, pb.WriteMode.ValueType] = {
    "rewrite": pb.WRITE_MODE_REWRITE,
    "stream": pb.WRITE_MODE_STREAM,
}
_WRITES_TOLD = {number: word for word, number in _WRITES.items()}
_WHEN_FULL: dict[WhenFull, pb.WhenFull.ValueType] = {
    "grow": pb.WHEN_FULL_GROW,
    "refuse": pb.WHEN_FULL_REFUSE,
    "forget": pb.WHEN_FULL_FORGET,
}
_WHEN_FULL_TOLD = {number: word for word, number in _WHEN_FULL.items()}

_Word = TypeVar("_Word", bound=str)
_Number = TypeVar("_Number", bound=int)


def asked(write: WriteMode | None, when_full: WhenFull | None, page_patterns: int | None) -> pb.MemorySettings:
    """What a memory is to be made with; None leaves a setting to the server.

    Raises:
        InvalidRequest: naming the setting, the value seen and the values expected.
    """
    if page_patterns is not None and not 0 < page_patterns <= _PAGE_PATTERNS_LIMIT:
        seen = f"saw {page_patterns!r}; expected at least 1, and at most four times the model's capacity"
        raise InvalidRequest.of("page_patterns", seen)
    return pb.MemorySettings(
        write=pb.WRITE_MODE_UNSPECIFIED if write is None else _number("write", write, _WRITES),
        when_full=pb.WHEN_FULL_UNSPECIFIED if when_full is None else _number("when_full", when_full, _WHEN_FULL),
        page_patterns=page_patterns or 0,
    )


def told(settings: pb.MemorySettings) -> MemorySettings:
    """What the server says a memory has; a word that this client does not know becomes the default."""
    return MemorySettings(
        write=_WRITES_TOLD.get(settings.write, "rewrite"),
        when_full=_WHEN_FULL_TOLD.get(settings.when_full, "grow"),
        page_patterns=settings.page_patterns,
    )


def _number(setting: str, word: _Word, numbers: Mapping[_Word, _Number]) -> _Number:
    if word not in numbers:
        raise InvalidRequest.of(setting, f"saw {word!r}; expected one of {list(numbers)}")
    return numbers[word]
