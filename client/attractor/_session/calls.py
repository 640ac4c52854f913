"""Calls of users: one request or several, where the patterns are more than a frame takes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from attractor._arrays import PackedPatterns
from attractor._errors import InvalidRequest, MemoryNotFound, Refused
from attractor._results import Piece
from attractor._session.request import Operation, Request, Result_co, count_message_bytes
from attractor._session.router import Router
from attractor._settings import Limits
from attractor._tracing import CallSpan
from attractor._types import ModelInfo


@dataclass(eq=False)
class PendingCall(Generic[Result_co]):
    """A call whose requests are under way, in that order."""

    router: Router
    requests: Sequence[Request]
    operation: Operation[Result_co]
    model: ModelInfo
    single: bool
    forget_model: Callable[[], None]
    """Called where there is no such memory, or perhaps one of another model."""
    span: CallSpan

    @property
    def rows(self) -> int:
        """Number of patterns."""
        return sum(request.rows for request in self.requests)

    async def wait(self) -> Result_co:
        """Wait for the results of all requests and join them; if one fails, abandon the others.

        Raises:
            AttractorError: the first failure.
        """
        return self.operation.join(await self._wait_pieces(), self.model, self.single)

    def abandon(self) -> None:
        """Give up the requests: nobody waits for the results any more."""
        self.router.abandon(self.requests)
        self.span.end()

    async def _wait_pieces(self) -> list[Piece]:
        try:
            pieces = [await request.future for request in self.requests]
        except (MemoryNotFound, InvalidRequest, Refused) as error:  # the latter where it has another model by now
            self.forget_model()
            self.span.end(error)
            self.abandon()
            raise
        except BaseException as error:  # a failure, or nobody waits any more
            self.span.end(error)
            self.abandon()
            raise
        self.span.end()
        return pieces


def split_patterns(operation: Operation[object], packed: PackedPatterns, limits: Limits) -> list[PackedPatterns]:
    """Return pieces that fit into a frame each.

    Raises:
        InvalidRequest: one pattern is larger than a frame, or several pieces could not be one write.
    """
    whole_bytes = count_message_bytes(operation, packed)
    if packed.rows <= limits.patterns and whole_bytes <= limits.payload_bytes:
        return [packed]
    row_bytes = math.ceil(whole_bytes / packed.rows)
    at_most = min(limits.patterns, limits.payload_bytes // max(row_bytes, 1))
    if at_most < 1:
        seen = f"saw {row_bytes} bytes for one pattern"
        raise InvalidRequest.of("patterns", f"{seen}; expected at most {limits.payload_bytes}")
    if operation.writes:
        seen = f"too many items: saw {packed.rows} patterns in one {operation.name}, which is one write"
        expected = f"expected at most {at_most}: call {operation.name} several times"
        raise InvalidRequest.of("patterns", f"{seen}; {expected}")
    return [packed.take(slice(first, first + at_most)) for first in range(0, packed.rows, at_most)]
