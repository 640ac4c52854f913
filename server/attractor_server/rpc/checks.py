"""What can be refused before anything is looked up."""

import zlib
from typing import Protocol

from attractor_proto.names import CLIENT_ID_LIMIT, NAME_LIMIT, STEPS_LIMIT, is_valid_name
from attractor_proto.v1 import memories_pb2 as pb
from attractor_server.errors import InvalidRequest, quoted
from attractor_server.storage.records import Call

SEQUENCE_LIMIT = (1 << 63) - 1


def check_name(name: str, *, field: str = "name") -> None:
    """Refuses what cannot be a memory's name.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if not is_valid_name(name):
        seen = repr(name) if len(name) <= NAME_LIMIT else f"{name[:32]!r}… ({len(name)} characters)"
        raise InvalidRequest.of(
            field,
            f"saw {seen}; expected 1 to {NAME_LIMIT} characters: letters, digits, '.', '_', '-' "
            "in segments separated by single '/'",
        )


def check_no_nul(text: str, where: str) -> None:
    """Refuses what a database cannot be asked for, and no name has.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if "\0" in text:
        raise InvalidRequest.of(where, f"saw {quoted(text)}; expected none of its characters to be U+0000")


def check_steps(steps: int, where: str) -> None:
    """Refuses more reading steps than a query may take.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if steps > STEPS_LIMIT:
        raise InvalidRequest.of(where, f"saw {steps}; expected 0 (the model's own number) to {STEPS_LIMIT}")


class Numbered(Protocol):
    """A request of a call that has a number."""

    @property
    def call(self) -> pb.Call:
        """Its number; empty for none."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:  # noqa: N802 - protobuf's name
        """The request as bytes."""


def call_of(request: Numbered, kind: str, memory: str) -> Call | None:
    """Return the number of a call and what it asks of the memory of that name, or None if it has no number.

    Raises:
        InvalidRequest: it is numbered by half, or for a client that cannot be.
    """
    call = request.call
    if not (call.client_id or call.sequence):
        return None
    check_client_id(call.client_id, "call.client_id")
    check_sequence(call.sequence, "call.sequence")
    digest = zlib.crc32(request.SerializeToString(deterministic=True)) or 1
    return Call(call.client_id, call.sequence, kind, memory, digest)


def check_client_id(client_id: str, where: str) -> None:
    """Refuses what no client can be called.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if not 0 < len(client_id) <= CLIENT_ID_LIMIT or "\0" in client_id:
        seen = f"saw {quoted(client_id)}, {len(client_id)} characters"
        raise InvalidRequest.of(where, f"{seen}; expected 1 to {CLIENT_ID_LIMIT}, none of them U+0000")


def check_sequence(sequence: int, where: str) -> None:
    """Refuses what no store can note.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if not 0 < sequence <= SEQUENCE_LIMIT:
        raise InvalidRequest.of(where, f"saw {sequence}; expected 1 to {SEQUENCE_LIMIT}")
