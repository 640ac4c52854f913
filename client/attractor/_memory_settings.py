"""Settings of memories, to messages and back."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TypedDict, TypeVar

from attractor._errors import InvalidRequest
from attractor._types import MemorySettings, Metric, RecallBy, Retain, WhenFull, WriteMode
from attractor_proto.v1 import memories_pb2 as pb

_PAGE_PATTERNS_LIMIT = 2**32 - 1
_WRITE_MODES: dict[WriteMode, pb.WriteMode.ValueType] = {
    "rewrite": pb.WRITE_MODE_REWRITE,
    "stream": pb.WRITE_MODE_STREAM,
}
_WHEN_FULL: dict[WhenFull, pb.WhenFull.ValueType] = {
    "grow": pb.WHEN_FULL_GROW,
    "refuse": pb.WHEN_FULL_REFUSE,
    "forget": pb.WHEN_FULL_FORGET,
}
_RETAINS: dict[Retain, pb.Retain.ValueType] = {"all": pb.RETAIN_ALL, "open_page": pb.RETAIN_OPEN_PAGE}

_METRICS: dict[Metric, pb.Metric.ValueType] = {"own": pb.METRIC_OWN, "model": pb.METRIC_MODEL}

_RECALLS: dict[RecallBy, pb.Recall.ValueType] = {"posterior": pb.RECALL_POSTERIOR, "network": pb.RECALL_NETWORK}

_Word = TypeVar("_Word", bound=str)
_Number = TypeVar("_Number", bound=int)


class RequestedSettings(TypedDict, total=False):
    """Settings asked for a memory; None, or nothing, leaves one to the server."""

    write: WriteMode | None
    when_full: WhenFull | None
    page_patterns: int | None
    retain: Retain | None
    metric: Metric | None
    recall: RecallBy | None
    ttl_s: float | None


def encode_settings(settings: RequestedSettings) -> pb.MemorySettings:
    """Check settings and return their message.

    Raises:
        InvalidRequest: naming the setting, the value seen and the values expected.
    """
    write, when_full, retain = settings.get("write"), settings.get("when_full"), settings.get("retain")
    recall = settings.get("recall")
    page_patterns, ttl_s = settings.get("page_patterns"), settings.get("ttl_s")
    if unknown := settings.keys() - RequestedSettings.__annotations__.keys():
        expected = list(RequestedSettings.__annotations__)
        raise InvalidRequest.of(min(unknown), f"there is no such setting; expected one of {expected}")
    _check_number("ttl_s", ttl_s, Real, "a number of seconds, or None for never")
    if ttl_s is not None and not 0 < ttl_s < math.inf:
        raise InvalidRequest.of("ttl_s", f"saw {ttl_s!r}; expected more than 0 seconds, or None for never")
    return pb.MemorySettings(
        write=pb.WRITE_MODE_UNSPECIFIED if write is None else _encode_word("write", write, _WRITE_MODES),
        when_full=pb.WHEN_FULL_UNSPECIFIED if when_full is None else _encode_word("when_full", when_full, _WHEN_FULL),
        page_patterns=encode_page_patterns(page_patterns),
        retain=pb.RETAIN_UNSPECIFIED if retain is None else _encode_word("retain", retain, _RETAINS),
        metric=encode_metric(settings.get("metric")),
        recall=pb.RECALL_UNSPECIFIED if recall is None else _encode_word("recall", recall, _RECALLS),
        ttl_s=float(ttl_s or 0),
    )


def encode_metric(given: Metric | None) -> pb.Metric.ValueType:
    """Check a metric; return 0 where that is left to the server.

    Raises:
        InvalidRequest: there is no such metric.
    """
    return pb.METRIC_UNSPECIFIED if given is None else _encode_word("metric", given, _METRICS)


def encode_page_patterns(given: int | None) -> int:
    """Check a number of patterns for a page; return 0 where that is left to the server.

    Raises:
        InvalidRequest: no page can take as many.
    """
    _check_number("page_patterns", given, Integral, "a whole number")
    if given is None:
        return 0
    if not 0 < given <= _PAGE_PATTERNS_LIMIT:
        seen = f"saw {given!r}; expected at least 1, and at most four times the model's capacity"
        raise InvalidRequest.of("page_patterns", seen)
    return int(given)


def decode_settings(settings: pb.MemorySettings) -> MemorySettings:
    """Return a memory's settings; a word that this client does not know becomes the default."""
    return MemorySettings(
        write=_decode_word(settings.write, _WRITE_MODES, "rewrite"),
        when_full=_decode_word(settings.when_full, _WHEN_FULL, "grow"),
        page_patterns=settings.page_patterns,
        retain=_decode_word(settings.retain, _RETAINS, "all"),
        metric=_decode_word(settings.metric, _METRICS, "model"),
        recall=_decode_word(settings.recall, _RECALLS, "network"),
        ttl_s=settings.ttl_s or None,
    )


def _check_number(setting: str, given: object, kind: type, expected: str) -> None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, kind)):
        raise InvalidRequest.of(setting, f"saw {given!r}; expected {expected}")


def _encode_word(setting: str, word: _Word, numbers: Mapping[_Word, _Number]) -> _Number:
    if not any(word == known for known in numbers):  # it may be of a type that no dict takes
        raise InvalidRequest.of(setting, f"saw {word!r}; expected one of {list(numbers)}")
    return numbers[word]


def _decode_word(number: int, numbers: Mapping[_Word, int], default: _Word) -> _Word:
    return next((word for word, known in numbers.items() if known == number), default)
