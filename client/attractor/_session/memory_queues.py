"""Queues of requests, one for each memory on a link, and the order in which memories have their turns."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import attrgetter

from attractor._session.frames import FrameRoom
from attractor._session.request import BatchKey, Request

_by_id = attrgetter("id")
_OPEN_LIMIT = 4096
"""Memories kept open on one link, apart from those with requests under way."""
_IN_FLIGHT_LIMIT = 512
"""Requests of one memory under way: half of the writes whose results a memory remembers for a repeat."""


class MemoryQueue:
    """Waiting requests of one memory, first in, first out, and its handle on the stream that is open now."""

    def __init__(self, memory: str) -> None:
        self.memory = memory
        self.handle = 0
        """0: not bound."""
        self.route = ""
        """Address of the memory's owner, if that is elsewhere."""
        self.model = ""
        """Name of the memory's model, when it was last opened."""
        self.opening = False
        self.delayed = False
        """Whether requests wait a while, after a failure."""
        self.failures = 0
        """Number since the last success."""
        self.has_turn = False
        """Whether it is in the line of queues with requests to send."""
        self.in_flight = 0
        self.pending: deque[Request] = deque()
        self._abandoned = 0

    @property
    def idle(self) -> bool:
        """Whether no request of this memory waits or is under way here."""
        return not (self.pending or self.in_flight or self.opening or self.delayed)

    @property
    def sendable(self) -> bool:
        """Whether a request waits that may go now; abandoned ones are dropped on the way."""
        while self.pending and not self.pending[0].alive:
            self.pending.popleft()
        blocked = self.delayed or self.opening or self.in_flight >= _IN_FLIGHT_LIMIT
        return bool(self.pending) and not blocked

    def count_abandoned(self) -> None:
        """Note that one request was abandoned; drop all such when they are the greater part."""
        self._abandoned += 1
        if 2 * self._abandoned > len(self.pending):
            self.pending = deque(request for request in self.pending if request.alive)
            self._abandoned = 0

    def requeue(self, requests: Iterable[Request]) -> None:
        """Put back requests that were sent already, each at its old place."""
        back = list(requests)
        for request in back:
            request.iterates.clear()
        self.pending = deque(sorted([*self.pending, *back], key=_by_id))

    def take(self, key: BatchKey, room: FrameRoom) -> list[Request]:
        """Remove the next requests, as far as they have that key and fit; they are under way from now on."""
        taken: list[Request] = []
        while self.handle and self.sendable and self.pending[0].batch_key == key and room.reserve(self.pending[0]):
            request = self.pending.popleft()
            request.handle = self.handle
            self.in_flight += 1
            taken.append(request)
            if not self.pending:
                break
        return taken

    def unbind(self) -> None:
        """Forget the handle of a stream that has ended."""
        self.handle, self.route, self.opening, self.in_flight = 0, "", False, 0


class MemoryQueues:
    """The queues of a link; those with requests to send take turns."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, MemoryQueue] = OrderedDict()
        """Least recently used first."""
        self._turns: deque[MemoryQueue] = deque()

    def __iter__(self) -> Iterator[MemoryQueue]:
        return iter(self._queues.values())

    def get(self, memory: str) -> MemoryQueue | None:
        """Return the memory's queue, if there is one."""
        return self._queues.get(memory)

    def use(self, memory: str) -> MemoryQueue:
        """Return the memory's queue, made now if there is none, and count it as used."""
        if (queue := self._queues.get(memory)) is None:
            return self._queues.setdefault(memory, MemoryQueue(memory))
        self._queues.move_to_end(memory)
        return queue

    def pop(self, memory: str) -> MemoryQueue | None:
        """Remove a queue, with the requests that wait in it."""
        return self._queues.pop(memory, None)

    def find_surplus(self) -> MemoryQueue | None:
        """Return an idle queue to be closed, where there are too many."""
        if len(self._queues) > _OPEN_LIMIT:
            for memory in list(islice(self._queues, 2)):
                if self._queues[memory].idle:
                    return self._queues[memory]
                self._queues.move_to_end(memory)
        return None

    def give_turn(self, queue: MemoryQueue) -> None:
        """Put the queue at the end of the line, if it has a request to send and no place yet."""
        if queue.pending and not queue.has_turn and queue.sendable:
            queue.has_turn = True
            self._turns.append(queue)

    def peek_turn(self) -> MemoryQueue | None:
        """Return the queue whose turn it is."""
        while self._turns:
            if self._turns[0].sendable:
                return self._turns[0]
            self.pop_turn()
        return None

    def pop_turn(self) -> MemoryQueue:
        """Remove the first of the line."""
        queue = self._turns.popleft()
        queue.has_turn = False
        return queue

    def take(self, key: BatchKey, room: FrameRoom) -> list[tuple[Request, MemoryQueue]]:
        """Remove requests that can share a frame, in the order of turns; a queue that gave one goes to the end."""
        requests, served, passed = list[tuple[Request, MemoryQueue]](), list[MemoryQueue](), list[MemoryQueue]()
        while self._turns and room.patterns:
            queue = self.pop_turn()
            taken = queue.take(key, room)
            requests += [(request, queue) for request in taken]
            (served if taken else passed).append(queue)
        for queue in reversed(passed):
            queue.has_turn = True
            self._turns.appendleft(queue)
        for queue in served:
            self.give_turn(queue)
        return requests
