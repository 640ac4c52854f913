"""Client of Attractor, a memory server whose memories are neural networks.

`connect` returns an `AsyncClient`, whose memories are `AsyncMemory`. `Client` and its `Memory` do without async.
"""

import typing as _typing
import warnings as _warnings

from attractor import _grpc_import, audio  # noqa: F401 - `_grpc_import` before any other module imports gRPC
from attractor._client import AsyncClient, connect
from attractor._errors import (
    AttractorError,
    Busy,
    CannotErase,
    CannotPull,
    ClientOpen,
    Closed,
    Conflict,
    Diverged,
    Draining,
    Exhausted,
    Forgotten,
    HandshakeFailed,
    InvalidRequest,
    MemoryFull,
    MemoryNotFound,
    ModelNotFound,
    NotAllowed,
    NotFound,
    NotKept,
    NotRetained,
    ProtocolMismatch,
    Refused,
    ServerFault,
    SnapshotNotFound,
    TimeoutExceeded,
    Unauthenticated,
    Unavailable,
    Unreachable,
    WrongBackend,
    WrongLoop,
    WrongProcess,
)
from attractor._filters import Filter
from attractor._items import AsyncItems
from attractor._memory import AsyncMemory
from attractor._pipeline import AsyncMemoryStream
from attractor._search import Found, Hit, SearchBy
from attractor._settings import Retry
from attractor._sync import Client, Items, Memory, MemoryStream
from attractor._text import MISSING
from attractor._tls import TLS
from attractor._types import (
    AudioFormat,
    Cue,
    EraseResult,
    Familiarity,
    FieldInfo,
    KeptItem,
    Matches,
    MemoryInfo,
    MemorySettings,
    Metric,
    ModelInfo,
    OnConflict,
    Patterns,
    Recall,
    RecallBy,
    Retain,
    SnapshotInfo,
    StoreResult,
    Trajectory,
    WhenFull,
    WriteMode,
)

__all__ = [
    "MISSING",
    "TLS",
    "AsyncClient",
    "AsyncItems",
    "AsyncMemory",
    "AsyncMemoryStream",
    "AttractorError",
    "AudioFormat",
    "Busy",
    "CannotErase",
    "CannotPull",
    "Client",
    "ClientOpen",
    "Closed",
    "Conflict",
    "Cue",
    "Diverged",
    "Draining",
    "EraseResult",
    "Exhausted",
    "Familiarity",
    "FieldInfo",
    "Filter",
    "Forgotten",
    "Found",
    "HandshakeFailed",
    "Hit",
    "InvalidRequest",
    "Items",
    "KeptItem",
    "Matches",
    "Memory",
    "MemoryFull",
    "MemoryInfo",
    "MemoryNotFound",
    "MemorySettings",
    "MemoryStream",
    "Metric",
    "ModelInfo",
    "ModelNotFound",
    "NotAllowed",
    "NotFound",
    "NotKept",
    "NotRetained",
    "OnConflict",
    "Patterns",
    "ProtocolMismatch",
    "Recall",
    "RecallBy",
    "Refused",
    "Retain",
    "Retry",
    "SearchBy",
    "ServerFault",
    "SnapshotInfo",
    "SnapshotNotFound",
    "StoreResult",
    "TimeoutExceeded",
    "Trajectory",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
    "WhenFull",
    "WriteMode",
    "WrongBackend",
    "WrongLoop",
    "WrongProcess",
    "audio",
    "connect",
]

for _name in __all__:
    if isinstance(_value := globals()[_name], type):
        _value.__module__ = __name__  # where users find it: in tracebacks, documentation and pickles

if _typing.TYPE_CHECKING:
    SyncMemory = Memory
    SyncMemoryStream = MemoryStream
else:
    _RENAMED = {"SyncMemory": Memory, "SyncMemoryStream": MemoryStream}

    def __getattr__(name: str) -> type:
        """Return a class by its name in 0.1."""
        if (renamed := _RENAMED.get(name)) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        message = f"attractor.{name} is attractor.{renamed.__name__} now; the old name goes with the next version"
        _warnings.warn(message, DeprecationWarning, stacklevel=2)
        return renamed
