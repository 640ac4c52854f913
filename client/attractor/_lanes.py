"""The requests of one memory on one link, first in, first out."""

from collections import deque
from collections.abc import Iterable
from operator import attrgetter

from attractor._frames import Room
from attractor._request import Request, Shelf

_in_order = attrgetter("id")


class Lane:
    """What waits for one memory, and the handle it is bound to on the stream that is open now."""

    def __init__(self, memory: str) -> None:
        self.memory = memory
        self.handle = 0
        """0: not bound."""
        self.route = ""
        """Where the memory's owner is, if elsewhere."""
        self.opening = False
        self.held = False
        """Waiting a while, after a failure."""
        self.failures = 0
        """Since the last success."""
        self.queued = False
        """In the outbox's line of lanes with something to send."""
        self.unanswered = 0
        self.pending: deque[Request] = deque()

    @property
    def idle(self) -> bool:
        """Whether nothing of this memory waits or is under way here."""
        return not (self.pending or self.unanswered or self.opening)

    @property
    def sendable(self) -> bool:
        """Whether something waits that may go now; what nobody waits for any more is dropped on the way."""
        while self.pending and not self.pending[0].alive:
            self.pending.popleft()
        return bool(self.pending) and not self.held and not self.opening

    def put_back(self, requests: Iterable[Request]) -> None:
        """Takes requests that were sent already, each at its old place."""
        back = list(requests)
        for request in back:
            request.iterates.clear()
        self.pending = deque(sorted([*self.pending, *back], key=_in_order))

    def take(self, shelf: Shelf, room: Room) -> list[Request]:
        """The next requests, as far as they are from that shelf and fit."""
        taken: list[Request] = []
        while self.sendable and self.pending[0].shelf == shelf and room.take(self.pending[0]):
            taken.append(self.pending.popleft())
        return taken

    def unbind(self) -> None:
        """The stream that the handle belonged to is gone."""
        self.handle, self.route, self.opening, self.unanswered = 0, "", False, 0
