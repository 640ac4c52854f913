"""The size of a message once it is decoded, found by a look at its fields alone."""

from collections.abc import Mapping
from functools import lru_cache

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from attractor_server.errors import InvalidRequest

COPIES = 8
"""Copies of a message's bytes while it is served: raw, decoded, as float32, answered, and each again on its way"""
FIELDS_LIMIT = 1 << 14
"""Fields in one message, inner ones included: a frame of 1,024 requests with items has less than half"""
PIECE_FIELDS_LIMIT = 1 << 20
"""Fields in a piece of an import, which may have an item for every few bytes"""
_FIELD_BYTES = 256
"""Size of an empty message, or of the beginning of an array"""

_GROWTH = {
    FieldDescriptor.TYPE_BOOL: 1,
    FieldDescriptor.TYPE_ENUM: 4,
    FieldDescriptor.TYPE_INT32: 4,
    FieldDescriptor.TYPE_UINT32: 4,
    FieldDescriptor.TYPE_SINT32: 4,
    FieldDescriptor.TYPE_INT64: 8,
    FieldDescriptor.TYPE_UINT64: 8,
    FieldDescriptor.TYPE_SINT64: 8,
}
"""Bytes in memory for one on the wire, of numbers that are written one after another"""


def weigh(raw: bytes, kind: type[Message], *, fields_limit: int = FIELDS_LIMIT) -> int:
    """Return about how many bytes a message of that kind takes while it is served, at most.

    Raises:
        InvalidRequest: it has too many fields to be meant, or its bytes are none of that kind.
    """
    try:
        return COPIES * len(raw) + _weigh_fields(raw, kind, fields_limit)
    except IndexError:
        raise unreadable_error(kind) from None


def unreadable_error(kind: type[Message]) -> InvalidRequest:
    """Return the error of a request whose bytes are no message."""
    return InvalidRequest.of("message", f"saw bytes that are no {kind.DESCRIPTOR.full_name}; expected one")


def _weigh_fields(raw: bytes, kind: type[Message], fields_limit: int) -> int:
    weight, seen = 0, 0
    todo = [(0, len(raw), kind)]
    while todo:
        at, end, kind = todo.pop()
        within = list_inner_fields(kind)  # type: ignore[arg-type]  # the stubs say that a type has no hash
        while at < end:
            seen += 1
            if seen > fields_limit:
                seen_bytes = f"saw more than {fields_limit} fields in {len(raw)} bytes"
                raise InvalidRequest.of("message", f"{seen_bytes}; expected at most so many")
            if (tag := raw[at]) < 0x80:  # as nearly all are
                at += 1
            else:
                tag, at = read_varint(raw, at)
            match tag & 7:
                case 0:
                    at = at + 1 if raw[at] < 0x80 else read_varint(raw, at)[1]
                case 1:
                    at += 8
                case 5:
                    at += 4
                case 2:
                    if (length := raw[at]) < 0x80:
                        at += 1
                    else:
                        length, at = read_varint(raw, at)
                    inner, growth = within.get(tag >> 3, (None, 0))
                    if inner is not None and at + length <= end:
                        todo.append((at, at + length, inner))
                    weight += growth * length
                    at += length
                case _:
                    raise IndexError(at)
            weight += _FIELD_BYTES
        if at > end:
            raise IndexError(at)
    return weight


def read_varint(raw: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at that place, and the place behind it."""
    byte = raw[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
        if shift > 63:
            raise IndexError(at)


@lru_cache
def list_inner_fields(kind: type[Message]) -> Mapping[int, tuple[type[Message] | None, int]]:
    """Return, by number, the kind of a field that is a message, and how much a field of numbers grows."""
    fields = kind.DESCRIPTOR.fields
    messages = {
        field.number: GetMessageClass(field.message_type)  # type: ignore[arg-type]  # the stubs have two of a name
        for field in fields
        if field.message_type
    }
    return {field.number: (messages.get(field.number), _GROWTH.get(field.type, 0)) for field in fields}
