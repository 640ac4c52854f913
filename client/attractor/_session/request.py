"""Requests on their way to a shard, and the operations that they ask for."""

import math
from asyncio import Future
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from attractor._arrays import PackedPatterns
from attractor._errors import AttractorError
from attractor._results import Piece
from attractor._types import ModelInfo
from attractor_proto.v1 import memory_data_pb2 as pb

Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation(Generic[Result_co]):
    """An operation on patterns: its frames in the contract, and the functions that encode, decode and join them."""

    name: str
    writes: bool
    """Whether it changes the memory. Then it takes whole patterns, in one frame, with a sequence number."""
    response: str
    """Field of `SessionResponse` with its results."""
    encode: "Callable[[pb.SessionRequest, Sequence[Request]], pb.RequestColumns]"
    """Write what is the operation's own into a message; return the columns, still empty."""
    decode: Callable[[pb.SessionResponse], Iterator[tuple[int, Piece]]]
    """Yield request ids with their results."""
    join: Callable[[Sequence[Piece], ModelInfo, bool], Result_co]
    """Return the result of a call from those of its requests; the last argument is whether it was a single pattern."""


@dataclass(frozen=True, kw_only=True)
class RequestSpec(Generic[Result_co]):
    """Operation of a request and its options: all but the memory and the patterns."""

    operation: Operation[Result_co]
    steps: int = 0
    trajectory: bool = False
    pull: bool = False
    matches: int = 0
    kept: bool | None = None
    on_conflict: pb.OnConflict.ValueType = pb.ON_CONFLICT_UNSPECIFIED
    unless_similar: float = 0.0


class BatchKey(NamedTuple):
    """Key of a request; those with equal keys can share a frame."""

    spec: RequestSpec[object]
    model: str
    columns: tuple[tuple[str, int], ...]
    """Field and dtype."""


@dataclass(eq=False, kw_only=True, slots=True)
class Request:
    """Patterns of one memory on their way; `id` also counts the order in which a client's requests were made."""

    id: int
    memory: str
    batch_key: BatchKey
    packed: PackedPatterns
    future: "Future[Piece]"
    deadline_s: float = math.inf
    """On the event loop's clock."""
    rows: int
    message_bytes: int
    sequence: int = 0
    """Sequence number of a write, given when it is first sent and kept in every repeat."""
    handle: int = 0
    """Handle of the memory, on the stream it was last sent on."""
    abandoned: bool = False
    """Nobody waits any more, and that has been dealt with."""
    resent_to_new_memory: bool = False
    """The memory was gone when it was first sent: if it is gone again, that is the result."""
    model_now: str = ""
    """Model of the memory, where it is found to be another than that of the patterns."""
    failure: AttractorError | None = None
    """Reason of the last repeat."""
    trace: bytes = b""
    """Context of the call's trace, as frames have it; empty where it is not traced."""
    iterates: list[pb.TrajectoryFrame] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether a caller still waits for the result."""
        return not self.future.done()

    def resolve(self, result: Piece) -> None:
        """Hand over the result, unless nobody waits for it any more."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: AttractorError) -> None:
        """Hand over a failure, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # retrieved: whether somebody still awaits it is no matter for asyncio's log


def make_batch_key(spec: RequestSpec[object], packed: PackedPatterns) -> BatchKey:
    """Return the key of a request with these patterns."""
    return BatchKey(spec, packed.model.digest, tuple([(column.field, column.dtype) for column in packed.columns]))


def count_message_bytes(operation: Operation[object], packed: PackedPatterns) -> int:
    """Return the share of a message that a request takes: its own length or its result's, whichever is longer."""
    return packed.sent_bytes if operation.writes else max(packed.sent_bytes, packed.result_bytes)
