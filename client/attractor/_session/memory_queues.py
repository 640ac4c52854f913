"""The requests of one memory on one link, first in, first out; and the line in which memories wait for their turn."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import attrgetter

from attractor._session.frames import Room
from attractor._session.request import Request, Shelf

_in_order = attrgetter("id")
_LANES_LIMIT = 4096
"""Memories kept open on one link, apart from those with something under way."""
_UNANSWERED_LIMIT = 512
"""Requests of one memory under way: half of the stores whose answers a memory remembers for a repeat."""


class Lane:
    """What waits for one memory, and the handle it is bound to on the stream that is open now."""

    def __init__(self, memory: str) -> None:
        self.memory = memory
        self.handle = 0
        """0: not bound."""
        self.route = ""
        """Where the memory's owner is, if elsewhere."""
        self.model = ""
        """The name of the memory's model, when it was last opened."""
        self.opening = False
        self.held = False
        """Waiting a while, after a failure."""
        self.failures = 0
        """Since the last success."""
        self.queued = False
        """In the line of lanes with something to send."""
        self.unanswered = 0
        self.pending: deque[Request] = deque()
        self._given_up = 0

    @property
    def idle(self) -> bool:
        """Whether nothing of this memory waits or is under way here."""
        return not (self.pending or self.unanswered or self.opening or self.held)

    @property
    def sendable(self) -> bool:
        """Whether something waits that may go now; what nobody waits for any more is dropped on the way."""
        while self.pending and not self.pending[0].alive:
            self.pending.popleft()
        blocked = self.held or self.opening or self.unanswered >= _UNANSWERED_LIMIT
        return bool(self.pending) and not blocked

    def give_up(self) -> None:
        """Nobody waits any more for one of the requests; all such are dropped when they are the greater part."""
        self._given_up += 1
        if 2 * self._given_up > len(self.pending):
            self.pending = deque(request for request in self.pending if request.alive)
            self._given_up = 0

    def put_back(self, requests: Iterable[Request]) -> None:
        """Takes requests that were sent already, each at its old place."""
        back = list(requests)
        for request in back:
            request.iterates.clear()
        self.pending = deque(sorted([*self.pending, *back], key=_in_order))

    def take(self, shelf: Shelf, room: Room) -> list[Request]:
        """The next requests, as far as they are from that shelf and fit; they are under way from now on."""
        taken: list[Request] = []
        while self.handle and self.sendable and self.pending[0].shelf == shelf and room.take(self.pending[0]):
            request = self.pending.popleft()
            request.handle = self.handle
            self.unanswered += 1
            taken.append(request)
            if not self.pending:
                break
        return taken

    def unbind(self) -> None:
        """The stream that the handle belonged to is gone."""
        self.handle, self.route, self.opening, self.unanswered = 0, "", False, 0


class Lanes:
    """The lanes of a link, and in what order those with something to send have their turns."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        """The one used longest ago first."""
        self._line: deque[Lane] = deque()

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def get(self, memory: str) -> Lane | None:
        """The memory's lane, if there is one."""
        return self._lanes.get(memory)

    def use(self, memory: str) -> Lane:
        """The memory's lane, made now if there is none."""
        if (lane := self._lanes.get(memory)) is None:
            return self._lanes.setdefault(memory, Lane(memory))
        self._lanes.move_to_end(memory)
        return lane

    def pop(self, memory: str) -> Lane | None:
        """Takes a lane out, with what is pending in it."""
        return self._lanes.pop(memory, None)

    def surplus(self) -> Lane | None:
        """An idle lane to be closed, where there are too many."""
        if len(self._lanes) > _LANES_LIMIT:
            for memory in list(islice(self._lanes, 2)):
                if self._lanes[memory].idle:
                    return self._lanes[memory]
                self._lanes.move_to_end(memory)
        return None

    def enqueue(self, lane: Lane) -> None:
        """Gives the lane a place at the end of the line, if it has something to send and no place yet."""
        if lane.pending and not lane.queued and lane.sendable:
            lane.queued = True
            self._line.append(lane)

    def first(self) -> Lane | None:
        """The lane whose turn it is."""
        while self._line:
            if self._line[0].sendable:
                return self._line[0]
            self.dequeue()
        return None

    def dequeue(self) -> Lane:
        """Takes the first of the line."""
        lane = self._line.popleft()
        lane.queued = False
        return lane

    def take(self, shelf: Shelf, room: Room) -> list[tuple[Request, Lane]]:
        """Goes along the line and takes what can share a frame; who gave something goes to the end."""
        requests, served, passed = list[tuple[Request, Lane]](), list[Lane](), list[Lane]()
        while self._line and room.patterns:
            lane = self.dequeue()
            taken = lane.take(shelf, room)
            requests += [(request, lane) for request in taken]
            (served if taken else passed).append(lane)
        for lane in reversed(passed):
            lane.queued = True
            self._line.appendleft(lane)
        for lane in served:
            self.enqueue(lane)
        return requests
