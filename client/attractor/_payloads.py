"""Ids and payloads of patterns, to messages and back."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attractor._arguments import check_seconds, check_text
from attractor._errors import InvalidRequest, ServerFault
from attractor._types import Ids, Payload
from attractor_proto.names import ITEM_ID_LIMIT, PAYLOAD_LIMIT_BYTES, TEXT_LIMIT_BYTES
from attractor_proto.v1 import memories_pb2 as pb
from attractor_proto.v1 import memory_data_pb2 as data_pb

_ON_CONFLICT = {
    "append": data_pb.ON_CONFLICT_UNSPECIFIED,
    "replace": data_pb.ON_CONFLICT_REPLACE,
    "refuse": data_pb.ON_CONFLICT_REFUSE,
    "keep": data_pb.ON_CONFLICT_KEEP,
}


def encode_items(  # noqa: PLR0913 - each a part of the items
    ids: Ids | None,
    payloads: Payload | Sequence[Payload] | None,
    *,
    rows: int,
    single: bool,
    ttl_s: float | None = None,
    texts: str | Sequence[str] | None = None,
) -> tuple[pb.Item, ...]:
    """Return an item for each pattern, erased after `ttl_s`; none if there are neither ids, payloads, texts nor that.

    Raises:
        InvalidRequest: naming the argument, the value seen and the value expected.
    """
    if ids is None and payloads is None and ttl_s is None and texts is None:
        return ()
    lasting_s = check_ttl(ttl_s)
    names = _list_values("ids", ids, "", rows=rows, single=single)
    given = _list_values("payloads", payloads, None, rows=rows, single=single)
    items = [_encode_item(row, name, payload) for row, (name, payload) in enumerate(zip(names, given, strict=True))]
    for row, text in enumerate(_list_values("texts", texts, "", rows=rows, single=single)):
        items[row].text = check_words(f"texts[{row}]", text)
    if lasting_s:
        for item in items:
            item.ttl_s = lasting_s
    return tuple(items)


def check_words(where: str, text: object) -> str:
    """Return a text that items are found by.

    Raises:
        InvalidRequest: it is no text, or too long.
    """
    given = check_text(where, text)
    if (length := len(given.encode())) > TEXT_LIMIT_BYTES:
        raise InvalidRequest.of(where, f"saw {length} bytes; expected at most {TEXT_LIMIT_BYTES}")
    return given


def check_ttl(ttl_s: object) -> float:
    """Return the seconds until items are erased; 0 for never.

    Raises:
        InvalidRequest: they are no positive number.
    """
    if ttl_s is None:
        return 0.0
    check_seconds("ttl_s", ttl_s)
    if not 0 < (seconds := float(ttl_s)) < math.inf:  # type: ignore[arg-type]  # it is a number
        raise InvalidRequest.of("ttl_s", f"saw {ttl_s!r}; expected seconds, more than 0, or None (they stay)")
    return seconds


def encode_on_conflict(on_conflict: str) -> data_pb.OnConflict.ValueType:
    """Return the number of a treatment of ids that a memory has.

    Raises:
        InvalidRequest: there is no such treatment.
    """
    if on_conflict not in _ON_CONFLICT:
        raise InvalidRequest.of("on_conflict", f"saw {on_conflict!r}; expected one of {', '.join(_ON_CONFLICT)}")
    return _ON_CONFLICT[on_conflict]


def decode_payload(item: pb.Item) -> Payload:
    """Return the payload as it was given.

    Raises:
        ServerFault: it should be JSON and is not.
    """
    if not item.json:
        return item.payload if item.HasField("payload") else None
    try:
        return json.loads(item.payload)
    except (ValueError, RecursionError) as error:
        raise ServerFault(f"items.payload: saw bytes that are no JSON ({error})") from error


def _list_values(where: str, given: Any, missing: Any, *, rows: int, single: bool) -> Sequence[Any]:  # noqa: ANN401
    if given is None:
        return [missing] * rows
    if single:
        return [given.item() if isinstance(given, np.ndarray) and not given.ndim else given]
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, str | bytes) or not isinstance(given, Sequence) or len(given) != rows:
        seen = f"{len(given)} of them" if isinstance(given, Sequence) else type(given).__name__
        raise InvalidRequest.of(where, f"saw {seen}; expected a list of {rows}, one for each pattern")
    return given


def _encode_item(row: int, name: Any, payload: Payload) -> pb.Item:  # noqa: ANN401 - whatever the user gave
    if not isinstance(name, str) or len(name) > ITEM_ID_LIMIT:
        seen = f"{len(name)} characters" if isinstance(name, str) else type(name).__name__
        raise InvalidRequest.of(f"ids[{row}]", f"saw {seen}; expected a str of at most {ITEM_ID_LIMIT} characters")
    check_text(f"ids[{row}]", name)
    if payload is None:
        return pb.Item(id=name)
    if isinstance(payload, bytes | bytearray | memoryview):
        content, is_json = bytes(payload), False
    else:
        content, is_json = _encode_json(row, payload), True
    if len(content) > PAYLOAD_LIMIT_BYTES:
        raise InvalidRequest.of(f"payloads[{row}]", f"saw {len(content)} bytes; expected at most {PAYLOAD_LIMIT_BYTES}")
    return pb.Item(id=name, payload=content, json=is_json)


def _find_odd_part(payload: Payload) -> str:
    """Say what of a payload JSON would change: a key that is no str, or a tuple, anywhere in it; "" for nothing."""
    open_ = [payload]
    seen = set[int]()
    while open_:
        one = open_.pop()
        if not isinstance(one, dict | list | tuple) or id(one) in seen:
            continue
        seen.add(id(one))  # a payload that holds itself is for `json` to refuse
        if isinstance(one, tuple):
            return "a tuple, which JSON would make a list; expected lists"
        if isinstance(one, dict):
            odd = next(((key,) for key in one if not isinstance(key, str)), None)
            if odd is not None:
                return f"the key {odd[0]!r}, which JSON would make a str; expected keys of mappings that are str"
            open_.extend(one.values())
        else:
            open_.extend(one)
    return ""


def _encode_json(row: int, payload: Payload) -> bytes:
    if odd := _find_odd_part(payload):
        raise InvalidRequest.of(f"payloads[{row}]", f"saw {odd}")
    try:
        return json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        seen = f"saw {type(payload).__name__}, which JSON cannot say ({error})"
        raise InvalidRequest.of(f"payloads[{row}]", f"{seen}; expected bytes, or what it can say") from error
