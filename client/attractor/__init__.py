"""Attractor: a memory server whose memories are neural networks. This is its client."""

from attractor._client import AsyncClient, connect
from attractor._errors import (
    AttractorError,
    Closed,
    Conflict,
    Diverged,
    Draining,
    Exhausted,
    Forgotten,
    InvalidRequest,
    MemoryNotFound,
    ModelNotFound,
    NotFound,
    ProtocolMismatch,
    Refused,
    ServerFault,
    TimeoutExceeded,
    Unavailable,
    Unreachable,
    WrongBackend,
)
from attractor._memory import Memory
from attractor._settings import Retry
from attractor._stream import MemoryStream
from attractor._sync import Client, SyncMemory, SyncMemoryStream
from attractor._text import MISSING
from attractor._types import (
    Cue,
    Familiarity,
    FieldInfo,
    MemoryInfo,
    ModelInfo,
    Patterns,
    Recall,
    StoreResult,
    Trajectory,
)

__all__ = [
    "MISSING",
    "AsyncClient",
    "AttractorError",
    "Client",
    "Closed",
    "Conflict",
    "Cue",
    "Diverged",
    "Draining",
    "Exhausted",
    "Familiarity",
    "FieldInfo",
    "Forgotten",
    "InvalidRequest",
    "Memory",
    "MemoryInfo",
    "MemoryNotFound",
    "MemoryStream",
    "ModelInfo",
    "ModelNotFound",
    "NotFound",
    "Patterns",
    "ProtocolMismatch",
    "Recall",
    "Refused",
    "Retry",
    "ServerFault",
    "StoreResult",
    "SyncMemory",
    "SyncMemoryStream",
    "TimeoutExceeded",
    "Trajectory",
    "Unavailable",
    "Unreachable",
    "WrongBackend",
    "connect",
]
