"""How a memory is written and what it does when it is full, in the words of the user and in those of the contract."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TypedDict, TypeVar

from attractor._errors import InvalidRequest
from attractor._types import MemorySettings, Retain, WhenFull, WriteMode
from attractor_proto.v1 import memories_pb2 as pb

_PAGE_PATTERNS_LIMIT = 2**32 - 1


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
_RETAINS: dict[Retain, pb.Retain.ValueType] = {"all": pb.RETAIN_ALL, "open_page": pb.RETAIN_OPEN_PAGE}
_RETAINS_TOLD = {number: word for word, number in _RETAINS.items()}

_Word = TypeVar("_Word", bound=str)
_Number = TypeVar("_Number", bound=int)


class Asked(TypedDict, total=False):
    """The settings that a memory is asked to have; None, or nothing, leaves one to the server."""

    write: WriteMode | None
    when_full: WhenFull | None
    page_patterns: int | None
    retain: Retain | None
    ttl_s: float | None


def asked(settings: Asked) -> pb.MemorySettings:
    """What a memory is to be made with.

    Raises:
        InvalidRequest: naming the setting, the value seen and the values expected.
    """
    write, when_full, retain = settings.get("write"), settings.get("when_full"), settings.get("retain")
    page_patterns, ttl_s = settings.get("page_patterns"), settings.get("ttl_s")
    if unknown := settings.keys() - Asked.__annotations__.keys():
        raise InvalidRequest.of(
            min(unknown), f"there is no such setting; expected one of {list(Asked.__annotations__)}"
        )
    _check_number("ttl_s", ttl_s, Real, "a number of seconds, or None for never")
    if ttl_s is not None and not 0 < ttl_s < math.inf:
        raise InvalidRequest.of("ttl_s", f"saw {ttl_s!r}; expected more than 0 seconds, or None for never")
    return pb.MemorySettings(
        write=pb.WRITE_MODE_UNSPECIFIED if write is None else _number("write", write, _WRITES),
        when_full=pb.WHEN_FULL_UNSPECIFIED if when_full is None else _number("when_full", when_full, _WHEN_FULL),
        page_patterns=page_patterns_of(page_patterns),
        retain=pb.RETAIN_UNSPECIFIED if retain is None else _number("retain", retain, _RETAINS),
        ttl_s=float(ttl_s or 0),
    )


def page_patterns_of(given: int | None) -> int:
    """The patterns that a page shall take; 0 where that is left to the server.

    Raises:
        InvalidRequest: none can.
    """
    _check_number("page_patterns", given, Integral, "a whole number")
    if given is None:
        return 0
    if not 0 < given <= _PAGE_PATTERNS_LIMIT:
        seen = f"saw {given!r}; expected at least 1, and at most four times the model's capacity"
        raise InvalidRequest.of("page_patterns", seen)
    return int(given)


def _check_number(setting: str, given: object, kind: type, expected: str) -> None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, kind)):
        raise InvalidRequest.of(setting, f"saw {given!r}; expected {expected}")


def told(settings: pb.MemorySettings) -> MemorySettings:
    """What the server says a memory has; a word that this client does not know becomes the default."""
    return MemorySettings(
        write=_WRITES_TOLD.get(settings.write, "rewrite"),
        when_full=_WHEN_FULL_TOLD.get(settings.when_full, "grow"),
        page_patterns=settings.page_patterns,
        retain=_RETAINS_TOLD.get(settings.retain, "all"),
        ttl_s=settings.ttl_s or None,
    )


def _number(setting: str, word: _Word, numbers: Mapping[_Word, _Number]) -> _Number:
    if not any(word == known for known in numbers):  # it may be of a type that no dict takes
        raise InvalidRequest.of(setting, f"saw {word!r}; expected one of {list(numbers)}")
    return numbers[word]
