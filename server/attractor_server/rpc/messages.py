"""Memories, their settings, and items of patterns on the wire."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from google.protobuf import timestamp_pb2

from attractor_proto.names import ITEM_ID_LIMIT, PAYLOAD_LIMIT_BYTES, TEXT_LIMIT_BYTES
from attractor_proto.v1 import memories_pb2 as pb
from attractor_server.errors import InvalidRequest, Violation, quote
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.records import NOTHING, Item
from attractor_server.memories.settings import (
    TTL_LIMIT_S,
    MemorySettings,
    Metric,
    RecallBy,
    Retain,
    WhenFull,
    WriteMode,
)

PAGE_CAPACITIES = 4
"""Largest size of a page, in patterns that its model holds at the rated error"""

_END_S = 253402300799.0
"""The end of the year 9999, the last that clients can be told of; what was made for longer is told without"""

_WRITES: Mapping[pb.WriteMode.ValueType, WriteMode] = {
    pb.WRITE_MODE_REWRITE: "rewrite",
    pb.WRITE_MODE_STREAM: "stream",
}

_WHEN_FULL: Mapping[pb.WhenFull.ValueType, WhenFull] = {
    pb.WHEN_FULL_GROW: "grow",
    pb.WHEN_FULL_REFUSE: "refuse",
    pb.WHEN_FULL_FORGET: "forget",
}

_RETAINS: Mapping[pb.Retain.ValueType, Retain] = {pb.RETAIN_ALL: "all", pb.RETAIN_OPEN_PAGE: "open_page"}

_METRICS: Mapping[pb.Metric.ValueType, Metric] = {pb.METRIC_OWN: "own", pb.METRIC_MODEL: "model"}

_RECALLS: Mapping[pb.Recall.ValueType, RecallBy] = {pb.RECALL_POSTERIOR: "posterior", pb.RECALL_NETWORK: "network"}

_Number = TypeVar("_Number", bound=int)

_Word = TypeVar("_Word", bound=str)


class RequestedSettings(TypedDict, total=False):
    """The settings that a request names, as the fields of MemorySettings."""

    write: WriteMode
    when_full: WhenFull
    page_patterns: int
    retain: Retain
    metric: Metric
    recall: RecallBy
    ttl_s: float


def read_settings(message: pb.MemorySettings, *, capacity: int) -> RequestedSettings:
    """Return the settings that are not left unspecified.

    Raises:
        InvalidRequest: naming each field that cannot be meant, the value seen and the values expected.
    """
    problems = [
        *_check_known("write", message.write, _WRITES),
        *_check_known("when_full", message.when_full, _WHEN_FULL),
        *_check_known("retain", message.retain, _RETAINS),
        *_check_known("metric", message.metric, _METRICS),
        *_check_known("recall", message.recall, _RECALLS),
    ]
    if message.page_patterns > (limit := PAGE_CAPACITIES * capacity):
        expected = f"expected 1 to {limit}, {PAGE_CAPACITIES} times the model's capacity, or 0 (unspecified)"
        problems.append(Violation("settings.page_patterns", f"saw {message.page_patterns}; {expected}"))
    if not 0 <= message.ttl_s <= TTL_LIMIT_S:
        expected = f"expected seconds, at most {TTL_LIMIT_S:g}, or 0 (unspecified)"
        problems.append(Violation("settings.ttl_s", f"saw {message.ttl_s:g}; {expected}"))
    if problems:
        raise InvalidRequest(*problems)
    given = RequestedSettings()
    if message.write:
        given["write"] = _WRITES[message.write]
    if message.when_full:
        given["when_full"] = _WHEN_FULL[message.when_full]
    if message.page_patterns:
        given["page_patterns"] = message.page_patterns
    if message.retain:
        given["retain"] = _RETAINS[message.retain]
    if message.metric:
        given["metric"] = _METRICS[message.metric]
    if message.recall:
        given["recall"] = _RECALLS[message.recall]
    if message.ttl_s:
        given["ttl_s"] = message.ttl_s
    return given


def read_metric(number: pb.Metric.ValueType) -> Metric | None:
    """Return the metric that a request names; None where it is left unspecified.

    Raises:
        InvalidRequest: there is no such metric.
    """
    if problems := _check_known("metric", number, _METRICS, prefix=""):
        raise InvalidRequest(*problems)
    return _METRICS[number] if number else None


def read_kept(number: pb.Recall.ValueType, where: str) -> bool | None:
    """Return whether a request says that kept patterns take part; None where it is left to the memory.

    Raises:
        InvalidRequest: no such way to answer is known.
    """
    if problems := _check_known(where, number, _RECALLS, prefix=""):
        raise InvalidRequest(*problems)
    return _RECALLS[number] == "posterior" if number else None


def encode_settings(settings: MemorySettings) -> pb.MemorySettings:
    """Return the message of these settings."""
    return pb.MemorySettings(
        write=pb.WriteMode.Value(f"WRITE_MODE_{settings.write.upper()}"),
        when_full=pb.WhenFull.Value(f"WHEN_FULL_{settings.when_full.upper()}"),
        page_patterns=settings.page_patterns,
        retain=pb.Retain.Value(f"RETAIN_{settings.retain.upper()}"),
        ttl_s=settings.ttl_s or 0.0,
        metric=pb.Metric.Value(f"METRIC_{settings.metric.upper()}"),
        recall=pb.Recall.Value(f"RECALL_{settings.recall.upper()}"),
    )


def encode_memory(record: MemoryRecord) -> pb.Memory:
    """Return the message that describes a memory to clients."""
    return pb.Memory(
        name=record.name,
        model=record.model,
        model_digest=record.model_digest,
        version=record.version,
        patterns=record.patterns,
        created=encode_timestamp(record.created_s),
        settings=encode_settings(record.settings),
        pages=len(record.pages),
        expires=None if record.expires_s is None or record.expires_s >= _END_S else encode_timestamp(record.expires_s),
    )


def encode_timestamp(time_s: float) -> timestamp_pb2.Timestamp:
    """Return the message of a time in seconds since 1970."""
    stamp = timestamp_pb2.Timestamp()
    stamp.FromMicroseconds(int(min(max(time_s, 0.0), _END_S) * 1e6))
    return stamp


def _check_known(
    field: str, number: int, words: Mapping[_Number, str], *, prefix: str = "settings."
) -> Sequence[Violation]:
    """Return a violation if the number is neither 0, for unspecified, nor one of those."""
    if not number or number in words:
        return []
    known = ", ".join(f"{one} ({word})" for one, word in words.items())
    return [Violation(f"{prefix}{field}", f"saw {number}; expected {known}, or 0 (unspecified)")]


NESTING = 900
"""Levels of lists and objects in a payload of JSON, at most: Python's reader takes about 970"""


def read_items(messages: Sequence[pb.Item], *, patterns: int, where: str, timed: bool = False) -> Sequence[Item]:
    """Return one item for each pattern; nothing where none carries anything. Those from a file are `timed`.

    Raises:
        InvalidRequest: naming the item, the value seen and the value expected.
    """
    if not messages:
        return ()
    if len(messages) != patterns:
        raise InvalidRequest.of(where, f"saw {len(messages)} items; expected none, or {patterns}, one for each pattern")
    return [_read_item(message, f"{where}[{place}]", timed=timed) for place, message in enumerate(messages)]


def encode_items(items: Iterable[Item]) -> Iterable[pb.Item]:
    """Return the messages of these items."""
    return map(_encode_item, items)


def _encode_item(item: Item) -> pb.Item:
    message = pb.Item(id=item.id, json=item.json, text=item.text)
    if item.payload or item.empty:
        message.payload = item.payload
    if item.created_s:
        message.created.CopyFrom(encode_timestamp(item.created_s))
        message.updated.CopyFrom(encode_timestamp(item.updated_s))
    if item.expires_s is not None:
        message.expires.CopyFrom(encode_timestamp(item.expires_s))
    return message


def _read_item(message: pb.Item, where: str, *, timed: bool) -> Item:
    if len(message.id) > ITEM_ID_LIMIT:
        raise InvalidRequest.of(f"{where}.id", f"saw {len(message.id)} characters; expected at most {ITEM_ID_LIMIT}")
    if len(message.payload) > PAYLOAD_LIMIT_BYTES:
        seen = f"saw {len(message.payload)} bytes"
        raise InvalidRequest.of(f"{where}.payload", f"{seen}; expected at most {PAYLOAD_LIMIT_BYTES}")
    check_words(message.text, f"{where}.text")
    if message.json:
        _check_json(message.payload, where)
    if not 0 <= message.ttl_s <= TTL_LIMIT_S:
        expected = f"expected seconds, at most {TTL_LIMIT_S:g}, or 0 (it stays)"
        raise InvalidRequest.of(f"{where}.ttl_s", f"saw {message.ttl_s:g}; {expected}")
    times = _read_times(message, where, timed=timed)
    empty = message.HasField("payload") and not message.payload
    if not (message.id or message.payload or message.json or message.ttl_s or empty or times or message.text):
        return NOTHING
    return Item(
        id=message.id,
        payload=message.payload,
        json=message.json,
        empty=empty,
        text=message.text,
        ttl_s=0.0 if timed else message.ttl_s,
        **times,
    )


def check_words(text: str, where: str) -> None:
    """Refuse a text that is too long to be indexed.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if len(text) > TEXT_LIMIT_BYTES or len(text.encode()) > TEXT_LIMIT_BYTES:
        raise InvalidRequest.of(where, f"saw {len(text.encode())} bytes; expected at most {TEXT_LIMIT_BYTES}")


class _Times(TypedDict, total=False):
    created_s: float
    updated_s: float
    expires_s: float


def _read_times(message: pb.Item, where: str, *, timed: bool) -> _Times:
    """Return the times of an item that comes from a file; in a store there are none.

    Raises:
        InvalidRequest: naming the field.
    """
    given = [name for name in ("created", "updated", "expires") if message.HasField(name)]
    if given and not timed:
        raise InvalidRequest.of(f"{where}.{given[0]}", "saw a time; expected none: the server sets it (see ttl_s)")
    times = _Times()
    if message.HasField("created"):
        times["created_s"] = times["updated_s"] = message.created.ToMicroseconds() / 1e6
    if message.HasField("updated"):
        times["updated_s"] = message.updated.ToMicroseconds() / 1e6
    if message.HasField("expires"):
        times["expires_s"] = message.expires.ToMicroseconds() / 1e6
    return times


def _check_json(payload: bytes, where: str) -> None:
    try:
        text = payload.decode()
        value = _JSON.decode(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # which half a surrogate pair cannot be
    except RecursionError:
        raise _too_deep_error(where) from None
    except ValueError as error:
        seen = f"saw bytes that are no JSON in UTF-8 ({quote(str(error))})"
        raise InvalidRequest.of(f"{where}.payload", f"{seen}; expected JSON") from None
    if payload.count(b"[") + payload.count(b"{") > NESTING and _measure_depth(text) > NESTING:
        raise _too_deep_error(where)


def read_json(content: bytes) -> tuple[Any, int]:
    """Return a value of JSON, and how deeply it is nested.

    Raises:
        ValueError: it is no JSON in UTF-8.
        RecursionError: it is nested more deeply than can be read.
    """
    text = content.decode()
    return _JSON.decode(text), _measure_depth(text)


def _too_deep_error(where: str) -> InvalidRequest:
    return InvalidRequest.of(
        f"{where}.payload", f"saw JSON that is nested too deeply; expected at most {NESTING} levels"
    )


def _measure_depth(text: str) -> int:
    """Return how deeply valid JSON is nested."""
    depth = deepest = 0
    for mark in _MARKS.findall(text):
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse)

_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
"""Brackets, and strings, in which brackets count for nothing"""
