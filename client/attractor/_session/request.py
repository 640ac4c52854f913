"""One request on its way: what is asked, until when, and who waits for the answer."""

import math
from asyncio import Future
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from attractor._arrays import Packed
from attractor._errors import AttractorError, InvalidRequest
from attractor._results import Recalled, Recognized
from attractor._types import EraseResult, StoreResult
from attractor_proto.names import STEPS_LIMIT
from attractor_proto.v1 import memory_data_pb2 as pb

Answer: TypeAlias = StoreResult | EraseResult | Recalled | Recognized


class Operation(Enum):
    """What a frame asks for."""

    STORE = (1, True)
    ERASE = (2, True)
    QUERY = (3, False)
    RECOGNIZE = (4, False)

    writes: bool
    """Whether it changes the memory: then it is whole patterns, in one frame, with a number."""

    def __init__(self, _number: int, writes: bool) -> None:
        self.writes = writes


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked for, apart from the patterns."""

    operation: Operation
    steps: int = 0
    trajectory: bool = False
    pull: bool = False
    match: bool = False


@lru_cache
def reading(steps: int, *, trajectory: bool, hold: bool, match: bool = False) -> Ask:
    """A query with so many steps, which holds what is known or pulls it.

    Raises:
        InvalidRequest: more steps than a query may take.
    """
    if not 0 <= steps <= STEPS_LIMIT:
        raise InvalidRequest.of("steps", f"saw {steps}; expected 0 (the model's own number) to {STEPS_LIMIT}")
    return Ask(operation=Operation.QUERY, steps=steps, trajectory=trajectory, pull=not hold, match=match)


class Shelf(NamedTuple):
    """Requests of the same shelf can share a frame."""

    ask: Ask
    model: str
    columns: tuple[tuple[str, int], ...]
    """Field and dtype."""


@dataclass(eq=False, kw_only=True, slots=True)
class Request:
    """One request; `id` also counts the order in which a client's requests were made."""

    id: int
    memory: str
    shelf: Shelf
    packed: Packed
    future: "Future[Answer]"
    deadline_s: float = math.inf
    """On the event loop's clock."""
    rows: int
    weight_bytes: int
    sequence: int = 0
    """Of a store or an erase, given when it is first sent and kept in every repeat."""
    handle: int = 0
    """Of its memory, on the stream it was last sent on."""
    abandoned: bool = False
    """Nobody waits any more, and that has been dealt with."""
    anew: bool = False
    """Its memory was gone when it was first sent: that it is gone again is the answer."""
    model_now: str = ""
    """Of the memory, where it is found to be another than that of the patterns."""
    failure: AttractorError | None = None
    """Why it had to be repeated, the last time."""
    iterates: list[pb.TrajectoryFrame] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self.future.done()

    def resolve(self, answer: Answer) -> None:
        """Hands over the answer, unless nobody waits for it any more."""
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: AttractorError) -> None:
        """Hands over a failure, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # retrieved: whether somebody still awaits it is no matter for asyncio's log


def shelf_of(ask: Ask, model: str, packed: Packed) -> Shelf:
    """Where a request waits for others like it."""
    return Shelf(ask, model, tuple([(column.field, column.dtype) for column in packed.columns]))


def weight_bytes(operation: Operation, packed: Packed) -> int:
    """What a request takes of a message's length: its own or its answer's, whichever is longer."""
    return packed.sent_bytes if operation.writes else max(packed.sent_bytes, packed.answer_bytes)
