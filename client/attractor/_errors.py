"""Errors of the SDK. No exception of grpc ever reaches the caller.

AttractorError
├── InvalidRequest       an argument is invalid (carries field violations); found here or by the server
├── NotFound
│   ├── MemoryNotFound   never created, deleted, expired, or lost at the restart of a server that keeps nothing
│   ├── ModelNotFound
│   └── SnapshotNotFound the memory has no snapshot with that tag
├── Conflict             the name or tag is taken, by a memory of another model, say, or with other settings
├── Refused              the state of the server, or a missing permission, does not allow it
│   ├── Unauthenticated  the server does not know the token or certificate, or it has expired
│   ├── NotAllowed       this identity has no grant for that, whether there is such a memory or not
│   ├── Diverged         the writing or reading loop left finite numbers; nothing was applied
│   ├── MemoryFull       the memory has one page, by its settings, and that is full; nothing was applied
│   ├── Forgotten        a repeated write too old for its first result to be known
│   ├── NotKept          the server keeps no patterns and no memories (`attractor serve --durable no`)
│   ├── NotRetained      the memory keeps no patterns of its full pages
│   ├── CannotErase      the memory's model has not learned to erase
│   └── CannotPull       the memory's model has not learned to pull known entries towards the cue
├── Exhausted            the server has no room for more
├── Unavailable          try again, perhaps elsewhere (the SDK did, where it could)
│   ├── Busy             calls hold all the server's memory for them, or a rate was exceeded (also an Exhausted)
│   ├── Draining         the shard is going away
│   └── Unreachable      no server answers at the address
├── TimeoutExceeded      no answer within the timeout; the request may or may not have been applied (TimeoutError)
├── ProtocolMismatch     the server speaks another version of the contract, or is no Attractor server
├── HandshakeFailed      client and server do not agree on TLS, or one does not believe the other's certificate
├── ServerFault          the server failed in a way nobody foresaw, or sent an invalid frame
├── Closed               the client was closed, or was never entered
├── ClientOpen           a client that is open was entered once more
├── WrongLoop            an open client was used on another event loop than its own (RuntimeError)
├── WrongProcess         an open client, or any after gRPC was used, in a forked child (RuntimeError)
└── WrongBackend         called from another async library than asyncio (RuntimeError)
"""

from collections.abc import Sequence
from typing import ClassVar, Self

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

_STATUS_KEY = "grpc-status-details-bin"


class AttractorError(Exception):
    """Root of all errors; `reason` is a stable word in capitals, `violations` pairs of field and description.

    `route` is the new address of a memory that moved, where the server knows it.
    """

    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self, message: str, *, reason: str = "", violations: Sequence[tuple[str, str]] = (), route: str = ""
    ) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason
        self.violations = tuple(violations)
        self.route = route

    def copy(self) -> Self:
        """Return a copy for another caller, with a traceback of its own."""
        return type(self)(str(self), reason=self.reason, violations=self.violations, route=self.route)


class InvalidRequest(AttractorError):
    default_reason = "INVALID_REQUEST"

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidRequest":
        """Return an error with one violation: the value seen and the value expected of that field."""
        return cls(f"{field}: {description}", violations=[(field, description)])


class NotFound(AttractorError):
    default_reason = "NOT_FOUND"


class MemoryNotFound(NotFound):
    default_reason = "MEMORY_NOT_FOUND"


class ModelNotFound(NotFound):
    default_reason = "MODEL_NOT_FOUND"


class SnapshotNotFound(NotFound):
    default_reason = "SNAPSHOT_NOT_FOUND"


class Conflict(AttractorError):
    default_reason = "MEMORY_OF_OTHER_MODEL"


class Refused(AttractorError):
    default_reason = "REFUSED"


class Unauthenticated(Refused):
    default_reason = "UNAUTHENTICATED"


class NotAllowed(Refused):
    default_reason = "NOT_ALLOWED"


class Diverged(Refused):
    default_reason = "WRITE_DIVERGED"


class MemoryFull(Refused):
    default_reason = "MEMORY_FULL"


class Forgotten(Refused):
    default_reason = "SEQUENCE_FORGOTTEN"


class NotKept(Refused):
    default_reason = "NOT_KEPT"


class NotRetained(Refused):
    default_reason = "NOT_RETAINED"


class CannotErase(Refused):
    default_reason = "CANNOT_ERASE"


class CannotPull(Refused):
    default_reason = "CANNOT_PULL"


class Exhausted(AttractorError):
    default_reason = "EXHAUSTED"


class Unavailable(AttractorError):
    default_reason = "UNAVAILABLE"


class Busy(Exhausted, Unavailable):
    default_reason = "MEMORY_SHORT"


class Draining(Unavailable):
    default_reason = "DRAINING"


class Unreachable(Unavailable):
    default_reason = "UNREACHABLE"


class TimeoutExceeded(AttractorError, TimeoutError):
    default_reason = "EXPIRED"


class ProtocolMismatch(AttractorError):
    default_reason = "PROTOCOL_VERSION"


class HandshakeFailed(AttractorError):
    default_reason = "HANDSHAKE"


class ServerFault(AttractorError):
    default_reason = "INTERNAL"


class Closed(AttractorError):
    default_reason = "CLOSED"


class ClientOpen(AttractorError):
    default_reason = "CLIENT_OPEN"


class WrongLoop(AttractorError, RuntimeError):
    default_reason = "WRONG_LOOP"


class WrongProcess(AttractorError, RuntimeError):
    default_reason = "WRONG_PROCESS"


class WrongBackend(AttractorError, RuntimeError):
    default_reason = "WRONG_BACKEND"


_Code = grpc.StatusCode
_BY_STATUS: dict[tuple[grpc.StatusCode, str], type[AttractorError]] = {
    (_Code.INVALID_ARGUMENT, ""): InvalidRequest,
    (_Code.OUT_OF_RANGE, ""): InvalidRequest,
    (_Code.NOT_FOUND, ""): NotFound,
    (_Code.NOT_FOUND, "MEMORY_NOT_FOUND"): MemoryNotFound,
    (_Code.NOT_FOUND, "MODEL_NOT_FOUND"): ModelNotFound,
    (_Code.NOT_FOUND, "SNAPSHOT_NOT_FOUND"): SnapshotNotFound,
    (_Code.ALREADY_EXISTS, ""): Conflict,
    (_Code.FAILED_PRECONDITION, ""): Refused,
    (_Code.FAILED_PRECONDITION, "PROTOCOL_VERSION"): ProtocolMismatch,
    (_Code.FAILED_PRECONDITION, "MEMORY_FULL"): MemoryFull,
    (_Code.FAILED_PRECONDITION, "SEQUENCE_FORGOTTEN"): Forgotten,
    (_Code.FAILED_PRECONDITION, "CANNOT_ERASE"): CannotErase,
    (_Code.FAILED_PRECONDITION, "NOT_KEPT"): NotKept,
    (_Code.FAILED_PRECONDITION, "NOT_RETAINED"): NotRetained,
    (_Code.FAILED_PRECONDITION, "CANNOT_PULL"): CannotPull,
    (_Code.FAILED_PRECONDITION, "WRITE_DIVERGED"): Diverged,
    (_Code.FAILED_PRECONDITION, "READ_DIVERGED"): Diverged,
    (_Code.PERMISSION_DENIED, ""): NotAllowed,
    (_Code.UNAUTHENTICATED, ""): Unauthenticated,
    (_Code.RESOURCE_EXHAUSTED, ""): Exhausted,
    (_Code.RESOURCE_EXHAUSTED, "MEMORY_SHORT"): Busy,
    (_Code.RESOURCE_EXHAUSTED, "RATE"): Busy,
    (_Code.UNAVAILABLE, ""): Unavailable,
    (_Code.UNAVAILABLE, "DRAINING"): Draining,
    (_Code.CANCELLED, ""): Unavailable,  # by the server, as it goes away: nobody here asked for it
    (_Code.ABORTED, ""): Unavailable,
    (_Code.DEADLINE_EXCEEDED, ""): TimeoutExceeded,
    (_Code.UNIMPLEMENTED, ""): ProtocolMismatch,
}
_LOST = {
    (_Code.INTERNAL, "Internal error from Core"),  # the stream ended during a write, which hides why
    (_Code.UNKNOWN, "Stream removed"),
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_status(status: status_pb2.Status) -> AttractorError:
    """Return the error for a google.rpc.Status."""
    reason, violations, route = _decode_details(status)
    code = _CODES.get(status.code, _Code.UNKNOWN)
    kind = _BY_STATUS.get((code, reason)) or _BY_STATUS.get((code, ""), ServerFault)
    message = status.message or code.name
    if code is _Code.UNIMPLEMENTED:
        message = f"the server does not know this call: it is older, newer or no Attractor server ({message})"
    return kind(message, reason=reason, violations=violations, route=route)


def from_rpc(error: grpc.RpcError) -> AttractorError:
    """Return the error for a failed call."""
    if not isinstance(error, aio.AioRpcError):
        return ServerFault(str(error))
    if (error.code(), error.details()) in _LOST:
        return Unavailable("the connection was lost")
    return from_status(_get_status(error))


def _get_status(error: aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status(code=error.code().value[0], message=error.details() or "")


def _decode_details(status: status_pb2.Status) -> tuple[str, list[tuple[str, str]], str]:
    reason, violations, route = "", [], ""
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason, route = info.reason, info.metadata.get("route", "")
        elif detail.Unpack(bad):
            violations = [(violation.field, violation.description) for violation in bad.field_violations]
    return reason, violations, route
