"""Everything the server raises on purpose, with the gRPC status each one becomes.

ServerError
├── InvalidRequest            INVALID_ARGUMENT      what was sent cannot be meant (carries field violations)
│   └── UnsupportedProtocol   FAILED_PRECONDITION   the client speaks another version of the contract
├── NotFound                  NOT_FOUND
│   ├── MemoryNotFound
│   ├── ModelNotFound
│   └── SnapshotNotFound                            the memory has no snapshot with that tag
├── Conflict                  ALREADY_EXISTS        the name is taken by a memory of another model
│   ├── OtherSettings                               the name is taken by a memory with other settings
│   ├── NameTaken                                   the name of a fork or an import is taken by another memory
│   ├── ItemExists                                  the memory has an item with that id, and the store was to refuse
│   └── TagTaken                                    the memory has a snapshot of another version with that tag
├── Refused                   FAILED_PRECONDITION
│   ├── HandleNotOpen                               a frame names a handle that no `open` bound
│   ├── SequenceForgotten                           a repeat too old for its first answer to be known
│   ├── NumberReused                                another request of the same client had that number
│   ├── MemoryFull                                  the memory was made to refuse what its page has no room for
│   ├── WriteDiverged                               the writing loop left finite numbers; nothing was applied
│   ├── ReadDiverged                                the reading loop left finite numbers
│   ├── ModelGone                                   the memory was made from a model that is not served any more
│   ├── NotKept                                     the server keeps no patterns and no memories (`--durable no`)
│   ├── NotRetained                                 the memory keeps no patterns of its full pages
│   ├── ModelChanged                                the memory got a model with other fields before the request's turn
│   ├── CannotErase                                 the model has not learned to erase
│   ├── CannotPull                                  the model has not learned to pull known entries towards the cue
│   └── CannotScale                                 the server cannot have more or fewer shards while it runs
├── Unauthenticated           UNAUTHENTICATED       the caller has not proven to be anybody that the server knows
├── NotAllowed                PERMISSION_DENIED     the caller has no grant for that, or there is nothing of that name
├── Exhausted                 RESOURCE_EXHAUSTED
│   ├── QueueFull                                   more work is waiting than the shard takes
│   ├── BankFull                                    no place for the fast weights of another memory
│   ├── MemoryShort                                 calls hold all the memory that the shard gives them
│   ├── QuotaExceeded                               the namespace has as much as it may
│   └── RateExceeded                                the namespace has asked for more than it may lately
├── Unavailable               UNAVAILABLE           try again, perhaps elsewhere
│   ├── Draining
│   ├── OwnerUnreachable
│   │   └── MovedAway                               the memory is another shard's now, whose address goes with it
│   ├── OwnerChanged                                another shard has the memory now, or is about to have it
│   ├── StoreFailed                                 the store on disk could not be used; nothing was applied
│   │   ├── CommitUnknown                           or the connection was lost in a commit: perhaps it was applied
│   │   └── StoreFull         RESOURCE_EXHAUSTED    its disk is full: not to be repeated before there is room
│   └── BankBroken                                  two pages share a place in the bank: the shard ends
├── StoreDamaged              DATA_LOSS             what is on disk is not what was written there
├── Expired                   DEADLINE_EXCEEDED
├── Cancelled                 CANCELLED             the client no longer wants the answer
├── ModelFileError            a file that is no model of ours: damaged, or of a newer format
└── SettingsError             a setting, recipe or flag that cannot be meant
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

_QUOTED_LIMIT = 80


@dataclass(frozen=True)
class Violation:
    """One field of a request that breaks the contract, as google.rpc.BadRequest names it."""

    field: str
    description: str


def quote(value: object) -> str:
    """Return a value as an error repeats it, a long one cut off: errors travel in headers."""
    text = repr(value)
    return text if len(text) <= _QUOTED_LIMIT else f"{text[:_QUOTED_LIMIT]}…"


class ServerError(Exception):
    """Root of the tree; `code` is the gRPC status name, `reason` the stable word in ErrorInfo.

    `told` is what clients read where the message names paths or addresses of the server.
    """

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, told: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.told = told or message
        self.logged = False


class InvalidRequest(ServerError):
    code = "INVALID_ARGUMENT"
    reason = "INVALID_REQUEST"

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations: Sequence[Violation] = violations

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidRequest":
        """One violation: what was seen and what was expected of that field."""
        return cls(Violation(field, description))


class UnsupportedProtocol(InvalidRequest):
    code = "FAILED_PRECONDITION"
    reason = "PROTOCOL_VERSION"


class NotFound(ServerError):
    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class MemoryNotFound(NotFound):
    reason = "MEMORY_NOT_FOUND"


class ModelNotFound(NotFound):
    reason = "MODEL_NOT_FOUND"


class SnapshotNotFound(NotFound):
    reason = "SNAPSHOT_NOT_FOUND"


class Conflict(ServerError):
    code = "ALREADY_EXISTS"
    reason = "MEMORY_OF_OTHER_MODEL"


class OtherSettings(Conflict):
    reason = "MEMORY_OF_OTHER_SETTINGS"


class NameTaken(Conflict):
    reason = "NAME_TAKEN"


class TagTaken(Conflict):
    reason = "TAG_TAKEN"


class ItemExists(Conflict):
    reason = "ITEM_EXISTS"


class Refused(ServerError):
    code = "FAILED_PRECONDITION"
    reason = "REFUSED"


class HandleNotOpen(Refused):
    reason = "HANDLE_NOT_OPEN"


class SequenceForgotten(Refused):
    reason = "SEQUENCE_FORGOTTEN"


class NumberReused(Refused):
    reason = "NUMBER_REUSED"


class MemoryFull(Refused):
    reason = "MEMORY_FULL"


class WriteDiverged(Refused):
    reason = "WRITE_DIVERGED"


class ReadDiverged(Refused):
    reason = "READ_DIVERGED"


class ModelGone(Refused):
    reason = "MODEL_GONE"


class NotKept(Refused):
    reason = "NOT_KEPT"


class NotRetained(Refused):
    reason = "NOT_RETAINED"


class ModelChanged(Refused):
    reason = "MODEL_CHANGED"


class CannotErase(Refused):
    reason = "CANNOT_ERASE"


class CannotPull(Refused):
    reason = "CANNOT_PULL"


class CannotScale(Refused):
    reason = "CANNOT_SCALE"


class Unauthenticated(ServerError):
    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class NotAllowed(ServerError):
    code = "PERMISSION_DENIED"
    reason = "NOT_ALLOWED"


class Exhausted(ServerError):
    code = "RESOURCE_EXHAUSTED"
    reason = "EXHAUSTED"
    retry_s = 0.1
    """Time after which another try may succeed"""
    facts: Mapping[str, str] = MappingProxyType({})
    """Facts for programs"""


class QueueFull(Exhausted):
    reason = "QUEUE_FULL"


class BankFull(Exhausted):
    reason = "BANK_FULL"


class MemoryShort(Exhausted):
    reason = "MEMORY_SHORT"


class QuotaExceeded(Exhausted):
    reason = "QUOTA"
    retry_s = 1.0

    def __init__(self, namespace: str, quota: str, used: int, limit: int, *, more: int = 1) -> None:
        whose = f"namespace {quote(namespace)}" if namespace else "names without a namespace"
        super().__init__(f"{quota}: {whose} would have {used + more}, has {used}, and may have {limit}: {_AIDS[quota]}")
        self.namespace = namespace
        self.facts = {"namespace": namespace, "quota": quota, "value": str(used), "limit": str(limit)}


_AIDS = {
    "memories": "delete some, or ask whoever runs the server for more",
    "items": "erase some, forget snapshots, or ask whoever runs the server for more",
    "bytes": "erase items, forget snapshots, or ask whoever runs the server for more",
    "sessions": "close clients, or ask whoever runs the server for more",
    "handles": "close memories, or ask whoever runs the server for more",
}


class RateExceeded(Exhausted):
    reason = "RATE"

    def __init__(self, namespace: str, quota: str, limit: float, *, retry_s: float) -> None:
        whose = f"namespace {quote(namespace)}" if namespace else "names without a namespace"
        super().__init__(
            f"{quota}: {whose} may have {limit:g}, of which each shard has an equal part, and has asked for more: try "
            f"again in {retry_s:.3g} s, or use a session, which waits by itself"
        )
        self.retry_s = retry_s
        self.facts = {"namespace": namespace, "quota": quota, "limit": f"{limit:g}"}


class Unavailable(ServerError):
    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"


class Draining(Unavailable):
    reason = "DRAINING"


class OwnerUnreachable(Unavailable):
    reason = "OWNER_UNREACHABLE"


class MovedAway(OwnerUnreachable):
    def __init__(self, message: str, *, route: str) -> None:
        super().__init__(message)
        self.route = route


class OwnerChanged(Unavailable):
    reason = "OWNER_CHANGED"


class StoreFailed(Unavailable):
    reason = "STORE_FAILED"


class StoreFull(StoreFailed):
    code = "RESOURCE_EXHAUSTED"
    reason = "STORE_FULL"


class CommitUnknown(StoreFailed):
    """Not to be tried again in parts: the first try may have been made."""


class BankBroken(Unavailable):
    reason = "BANK_BROKEN"


class StoreDamaged(ServerError):
    code = "DATA_LOSS"
    reason = "STORE_DAMAGED"


class Expired(ServerError):
    code = "DEADLINE_EXCEEDED"
    reason = "EXPIRED"


class Cancelled(ServerError):
    code = "CANCELLED"
    reason = "CANCELLED"


class ModelFileError(ServerError):
    code = "FAILED_PRECONDITION"
    reason = "MODEL_FILE"


class SettingsError(ServerError):
    code = "INVALID_ARGUMENT"
    reason = "SETTINGS"


def forget_frames(error: BaseException) -> None:
    """Drop the frames of the functions that an error came through, once it was reported.

    An error that lies in a future would keep the future, the request and the call, which lead back to it.
    """
    told: BaseException | None = error
    while told is not None:
        told.__traceback__ = None
        told = told.__cause__ or told.__context__
