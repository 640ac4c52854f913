"""Lists of millions of numbers in one message, which would take tenths of a second to decode at a stretch.

Cancellations may have them: they are decoded in several messages. All others are refused once they are decoded; so is
what is left of them, when most of it is left out before.
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import Final, TypeAlias

from google.protobuf.message import Message

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.rpc.weighing import list_inner_fields, read_varint

LIST_BYTES: Final = 1 << 17
"""Of a list that is decoded at a stretch; none of so many numbers is taken in any other message"""

_NUMBER_BYTES: Final = 10
"""Of a number, at the most"""

_CANCEL: Final = pb.SessionRequest.CANCEL_FIELD_NUMBER
_IDS: Final = pb.Cancel.REQUEST_IDS_FIELD_NUMBER
_LENGTH: Final = 2
"""Wire type of lists, texts and messages"""
_FIXED: Final = {1: 8, 5: 4}

_Field: TypeAlias = tuple[int, int, memoryview, memoryview]
"""Number and wire type of a field, its bytes with both and its length, and its content"""


def describe_count(count: int) -> str:
    """Say how many numbers a list has, which was cut short where it had many more than any may have."""
    least = LIST_BYTES // _NUMBER_BYTES
    return str(count) if count < least else f"{least} or more"


def split_message(raw: bytes, kind: type[Message]) -> Iterator[bytes]:
    """Yield messages that together say the same, as far as any of it is not refused; most often the one message.

    The bytes are those of such a message, as `weigh` has made sure of.
    """
    if len(raw) <= LIST_BYTES:
        yield raw
        return
    fields = list(_read_fields(memoryview(raw))) if kind is pb.SessionRequest else []
    if fields and all(number == _CANCEL and wire == _LENGTH for number, wire, _, _ in fields):
        for _, _, _, content in fields:
            yield from _split_cancel(content)
        return
    parts = _shorten(memoryview(raw), kind)
    yield raw if parts is None else b"".join(parts)


def _split_cancel(content: memoryview) -> Iterator[bytes]:
    for number, wire, whole, ids in _read_fields(content):
        if number == _IDS and wire == _LENGTH and len(ids) > LIST_BYTES:
            start = 0
            while start < len(ids):
                end = _end_of_number(ids, start + LIST_BYTES)
                yield _encode_cancel(_encode(_IDS, [ids[start:end]]))
                start = end
        else:
            yield _encode_cancel([whole])


def _encode_cancel(parts: list[bytes | memoryview]) -> bytes:
    return b"".join(_encode(_CANCEL, parts))


def _shorten(raw: memoryview, kind: type[Message]) -> list[bytes | memoryview] | None:
    """Return the parts of the message with its long lists cut short, or None where it has none."""
    within = list_inner_fields(kind)  # type: ignore[arg-type]  # the stubs say that a type has no hash
    parts, cut = list[bytes | memoryview](), False
    for number, wire, whole, content in _read_fields(raw):
        shorter: list[bytes | memoryview] | None = None
        if wire == _LENGTH and len(content) > LIST_BYTES and number in within:
            inner, growth = within[number]
            if inner is not None:
                shorter = _shorten(content, inner)
            elif growth:
                shorter = [content[: _end_of_number(content, LIST_BYTES)]]
        cut = cut or shorter is not None
        parts += [whole] if shorter is None else _encode(number, shorter)
    return parts if cut else None


def _read_fields(raw: memoryview) -> Iterator[_Field]:
    at = 0
    while at < len(raw):
        tag, content = read_varint(raw, at)
        number, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            length, content = read_varint(raw, content)
            end = content + length
        else:
            end = content + _FIXED[wire] if wire in _FIXED else read_varint(raw, content)[1]
        yield number, wire, raw[at:end], raw[content:end]
        at = end


def _encode(number: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    return [_varint(number << 3 | _LENGTH), _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    content.append(value)
    return bytes(content)


def _end_of_number(numbers: memoryview, at: int) -> int:
    """Return the place behind the number that is at that place."""
    return min(len(numbers), at + 1 + sum(1 for _ in takewhile(lambda byte: byte & 0x80, numbers[at:])))
