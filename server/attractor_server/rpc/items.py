"""Ids and payloads of patterns on the wire."""

import json
from collections.abc import Iterable, Sequence

from attractor_proto.names import ITEM_ID_LIMIT, PAYLOAD_LIMIT_BYTES
from attractor_proto.v1 import memories_pb2 as pb
from attractor_server.errors import InvalidRequest
from attractor_server.storage.records import NOTHING, Item


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
    return (pb.Item(id=item.id, payload=item.payload, json=item.json) for item in items)


def _item(message: pb.Item, where: str) -> Item:
    if len(message.id) > ITEM_ID_LIMIT:
        raise InvalidRequest.of(f"{where}.id", f"saw {len(message.id)} characters; expected at most {ITEM_ID_LIMIT}")
    if len(message.payload) > PAYLOAD_LIMIT_BYTES:
        seen = f"saw {len(message.payload)} bytes"
        raise InvalidRequest.of(f"{where}.payload", f"{seen}; expected at most {PAYLOAD_LIMIT_BYTES}")
    if message.json:
        _check_json(message.payload, where)
    if not (message.id or message.payload or message.json):
        return NOTHING
    return Item(id=message.id, payload=message.payload, json=message.json)


def _check_json(payload: bytes, where: str) -> None:
    try:
        json.loads(payload)
    except ValueError as error:
        raise InvalidRequest.of(f"{where}.payload", f"saw bytes that are no JSON ({error}); expected JSON") from None
