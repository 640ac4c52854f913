"""From patterns to requests: splitting what is larger than a frame, and waiting for all pieces."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from attractor._arrays import Packed
from attractor._errors import InvalidRequest, MemoryNotFound, Refused, ServerFault
from attractor._results import Recalled, Recognized, familiarity, recall
from attractor._session.request import Answer, Operation, Request, Shelf, weight_bytes
from attractor._session.router import Router
from attractor._settings import Limits
from attractor._types import EraseResult, Familiarity, ModelInfo, Recall, StoreResult

_A = TypeVar("_A", StoreResult, EraseResult, Recalled, Recognized)


@dataclass(eq=False)
class Ticket:
    """A call on its way: its requests, sent in that order."""

    router: Router
    requests: Sequence[Request]
    single: bool
    model: ModelInfo
    gone: Callable[[], None]
    """Told where there is no such memory, or perhaps one of another model."""

    @property
    def rows(self) -> int:
        """Patterns under way."""
        return sum(request.rows for request in self.requests)

    async def answers(self) -> list[Answer]:
        """Waits for the answers to all pieces; without one of them, the others are not wanted either.

        Raises:
            AttractorError: the first failure.
        """
        try:
            return [await request.future for request in self.requests]
        except (MemoryNotFound, InvalidRequest, Refused):  # the latter where it has another model by now
            self.gone()
            self.abandon()
            raise
        except BaseException:  # a failure, or nobody waits any more
            self.abandon()
            raise

    def abandon(self) -> None:
        """Nobody waits for the answers any more."""
        self.router.abandon(self.requests)


def start(  # noqa: PLR0913
    router: Router, memory: str, shelf: Shelf, packed: Packed, deadline_s: float, gone: Callable[[], None]
) -> Ticket:
    """Puts a call on its way, without waiting for anything. `gone` is told where there is no such memory.

    Raises:
        InvalidRequest: a store or an erase of more than one frame holds, which could not be one write.
        Closed: the client was closed.
    """
    pieces = _pieces(shelf.ask.operation, packed, router.limits)
    requests = [router.submit(memory, shelf, piece, deadline_s) for piece in pieces]
    return Ticket(router, requests, packed.single, packed.model, gone)


def _pieces(operation: Operation, packed: Packed, limits: Limits) -> list[Packed]:
    whole_bytes = weight_bytes(operation, packed)
    if packed.rows <= limits.patterns and whole_bytes <= limits.payload_bytes:
        return [packed]
    row_bytes = math.ceil(whole_bytes / packed.rows)
    at_most = min(limits.patterns, limits.payload_bytes // max(row_bytes, 1))
    if at_most < 1:
        seen = f"saw {row_bytes} bytes for one pattern"
        raise InvalidRequest.of("patterns", f"{seen}; expected at most {limits.payload_bytes}")
    if operation.writes:
        name = operation.name.lower()
        seen = f"too many items: saw {packed.rows} patterns in one {name}, which is one write"
        raise InvalidRequest.of("patterns", f"{seen}; expected at most {at_most}: call {name} several times")
    return [packed.piece(slice(first, first + at_most)) for first in range(0, packed.rows, at_most)]


async def stored(ticket: Ticket) -> StoreResult:
    """Waits for the answer to a store."""
    return _all(await ticket.answers(), StoreResult)[0]


async def erased(ticket: Ticket) -> EraseResult:
    """Waits for the answer to an erase."""
    return _all(await ticket.answers(), EraseResult)[0]


async def recalled(ticket: Ticket) -> Recall:
    """Waits for the answer to a query."""
    return recall(_all(await ticket.answers(), Recalled), ticket.model, single=ticket.single)


async def recognized(ticket: Ticket) -> Familiarity:
    """Waits for the answer to a recognize."""
    return familiarity(_all(await ticket.answers(), Recognized), single=ticket.single)


def _all(answers: Sequence[Answer], kind: type[_A]) -> list[_A]:
    fitting = [answer for answer in answers if isinstance(answer, kind)]
    if len(fitting) < len(answers):
        raise ServerFault(f"the server answered with something else than {kind.__name__}")
    return fitting
