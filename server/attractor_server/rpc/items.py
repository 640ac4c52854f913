"""Ids and payloads of patterns on the wire."""

import json
import re
from collections.abc import Iterable, Sequence

from attractor_proto.names import ITEM_ID_LIMIT, PAYLOAD_LIMIT_BYTES
from attractor_proto.v1 import memories_pb2 as pb
from attractor_server.errors import InvalidRequest, quoted
from attractor_server.storage.records import NOTHING, Item

NESTING = 900
"""Levels of lists and objects in a payload of JSON, at most: Python's reader takes about 970"""


def items_of(messages: Sequence[pb.Item], *, patterns: int, where: str) -> Sequence[Item]:
    """One for each pattern; empty where none carries anything.

    Raises:
        InvalidRequest: naming the item, the value seen and the value expected.
    """
    if not messages:
        return ()
    if len(messages) != patterns:
        raise InvalidRequest.of(where, f"saw {len(messages)} items; expected none, or {patterns}, one for each pattern")
    return [_item(message, f"{where}[{place}]") for place, message in enumerate(messages)]


def messages_of(items: Iterable[Item]) -> Iterable[pb.Item]:
    """The inverse of `items_of`."""
    return map(_message, items)


def _message(item: Item) -> pb.Item:
    message = pb.Item(id=item.id, json=item.json)
    if item.payload or item.empty:
        message.payload = item.payload
    return message


def _item(message: pb.Item, where: str) -> Item:
    if len(message.id) > ITEM_ID_LIMIT:
        raise InvalidRequest.of(f"{where}.id", f"saw {len(message.id)} characters; expected at most {ITEM_ID_LIMIT}")
    if len(message.payload) > PAYLOAD_LIMIT_BYTES:
        seen = f"saw {len(message.payload)} bytes"
        raise InvalidRequest.of(f"{where}.payload", f"{seen}; expected at most {PAYLOAD_LIMIT_BYTES}")
    if message.json:
        _check_json(message.payload, where)
    empty = message.HasField("payload") and not message.payload
    if not (message.id or message.payload or message.json or empty):
        return NOTHING
    return Item(id=message.id, payload=message.payload, json=message.json, empty=empty)


def _check_json(payload: bytes, where: str) -> None:
    try:
        text = payload.decode()
        value = _JSON.decode(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # which half a surrogate pair cannot be
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        seen = f"saw bytes that are no JSON in UTF-8 ({quoted(str(error))})"
        raise InvalidRequest.of(f"{where}.payload", f"{seen}; expected JSON") from None
    if payload.count(b"[") + payload.count(b"{") > NESTING and _depth(text) > NESTING:
        raise _too_deep(where)


def _too_deep(where: str) -> InvalidRequest:
    return InvalidRequest.of(
        f"{where}.payload", f"saw JSON that is nested too deeply; expected at most {NESTING} levels"
    )


def _depth(text: str) -> int:
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
