"""What waits to be sent on one link, what was sent and is not answered, and which frame goes next."""

import asyncio
from collections import deque
from itertools import count, groupby
from operator import attrgetter

import anyio

from attractor._errors import AttractorError
from attractor._frames import Room, frame
from attractor._lanes import Lane
from attractor._request import Operation, Request
from attractor._settings import Limits, Retry
from attractor_proto.v1 import memory_data_pb2 as pb

_by_memory = attrgetter("memory")


class Outbox:
    """Everything is kept until it is answered, so that a new stream can go on where a lost one ended.

    The line of waiting requests has no bound of its own: for each of them a caller waits. What is sent and not answered
    is bounded, in patterns.
    """

    def __init__(self, *, sequences: dict[str, int], ids: "count[int]", in_flight_patterns: int) -> None:
        """`sequences` (the last number of each memory's stores) and `ids` belong to the client, not to the link."""
        self._sequences = sequences
        self._ids = ids
        self._in_flight_limit = in_flight_patterns
        self._in_flight = 0
        self._lanes: dict[str, Lane] = {}
        self._line: deque[Lane] = deque()
        self._sent: dict[int, Request] = {}
        self._opening: dict[int, Lane] = {}
        self._urgent: deque[pb.SessionRequest] = deque()
        self._handles = count(1)
        self._changed = anyio.Event()
        self.draining = False
        """Nothing new may be sent."""

    async def changed(self) -> None:
        """Waits until there may be more to send than at the last look. For one task at a time."""
        await self._changed.wait()
        self._changed = anyio.Event()

    @property
    def waiting(self) -> bool:
        """Whether a stream is needed."""
        return any(lane.sendable for lane in list(self._line))

    @property
    def unanswered(self) -> bool:
        """Whether an answer is to be expected."""
        return bool(self._sent)

    def put(self, request: Request) -> None:
        """Takes a new request."""
        lane = self._lanes.get(request.memory) or self._lanes.setdefault(request.memory, Lane(request.memory))
        lane.pending.append(request)
        self._enqueue(lane)

    def put_back(self, requests: list[Request]) -> None:
        """Takes requests that another link had, each at its place in the order of its memory."""
        for memory, group in groupby(sorted(requests, key=_by_memory), key=_by_memory):
            lane = self._lanes.setdefault(memory, Lane(memory))
            lane.put_back(group)
            self._enqueue(lane)

    def next(self, limits: Limits, now_s: float) -> pb.SessionRequest | None:
        """The message to send now, or None until something has changed."""
        if self._urgent:
            return self._urgent.popleft()
        while self._line and not self.draining:
            if not self._line[0].sendable:
                self._line.popleft().queued = False
            elif not self._line[0].handle:
                return self._open(self._dequeue())
            else:
                return self._frame(limits, now_s)
        return None

    def answered(self, request_id: int) -> Request | None:
        """The request that an answer belongs to, if it is still known; it is under way no longer."""
        if (request := self._sent.pop(request_id, None)) is not None:
            self._in_flight -= request.rows
            if (lane := self._lanes.get(request.memory)) is not None:
                lane.unanswered = max(0, lane.unanswered - 1)
            self._changed.set()
        return request

    def succeeded(self, memory: str) -> None:
        """The memory answers: the next failure is a first one."""
        if (lane := self._lanes.get(memory)) is not None:
            lane.failures = 0

    def sent(self, request_id: int) -> Request | None:
        """A request that is under way."""
        return self._sent.get(request_id)

    def abandon(self, request: Request) -> None:
        """Nobody waits for the answer any more: tells the server, where it was sent."""
        if request.id in self._sent:
            self._urgent.append(pb.SessionRequest(cancel=pb.Cancel(request_ids=[request.id])))
            self._changed.set()

    def opened(self, answer: pb.Opened) -> Lane | None:
        """A handle is bound. The lane it is for, unless that was given up meanwhile."""
        lane = self._opening.pop(answer.request_id, None)
        if lane is None or self._lanes.get(lane.memory) is not lane:
            self._close(answer.handle)
            return None
        lane.handle, lane.route, lane.opening = answer.handle, answer.route, False
        self._sequences[lane.memory] = max(self._sequences.get(lane.memory, 0), answer.last_sequence)
        self._enqueue(lane)
        return lane

    def refused(self, request_id: int) -> Lane | None:
        """A handle could not be bound. The lane it was for."""
        if (lane := self._opening.pop(request_id, None)) is not None:
            lane.opening = False
        return lane

    def hold(self, memory: str, requests: list[Request], retry: Retry) -> None:
        """Takes requests back, to be sent again after a while; what waits behind them waits too."""
        lane = self._lanes.setdefault(memory, Lane(memory))
        lane.put_back(requests)
        if not lane.held:
            lane.held, lane.failures = True, lane.failures + 1
            asyncio.get_running_loop().call_later(retry.delay_s(lane.failures), self._release, lane)

    def note(self, failure: AttractorError) -> None:
        """Remembers with everything that waits why it has to."""
        for lane in self._lanes.values():
            for request in lane.pending:
                request.failure = failure

    def lost(self) -> list[Request]:
        """The stream is gone: every handle with it. What was sent and is still wanted, in order."""
        unanswered = [request for request in self._sent.values() if request.alive]
        self._sent.clear()
        self._opening.clear()
        self._urgent.clear()
        self._in_flight, self._handles, self.draining = 0, count(1), False
        self._lanes = {name: lane for name, lane in self._lanes.items() if lane.pending or lane.held}
        for lane in self._lanes.values():
            lane.unbind()
            self._enqueue(lane)
        return unanswered

    def remove(self, memory: str) -> list[Request]:
        """Gives up a memory: what waits for it, and its handle. Requests under way stay so."""
        if (lane := self._lanes.pop(memory, None)) is None:
            return []
        if lane.handle:
            self._close(lane.handle)
        pending, lane.pending = list(lane.pending), deque()
        return pending

    def remove_all(self) -> list[Request]:
        """Everything that waits, of all memories."""
        return [request for memory in list(self._lanes) for request in self.remove(memory)]

    def fail(self, error: AttractorError) -> None:
        """Fails all that waits or is under way."""
        for request in [*self.lost(), *self.remove_all()]:
            request.fail(error.again())

    def unbind(self, memory: str) -> None:
        """The server no longer knows the memory behind the handle: opens it anew when it is next used."""
        if (lane := self._lanes.get(memory)) is not None and lane.handle:
            self._close(lane.handle)
            lane.handle, lane.route = 0, ""

    def idle_route(self, memory: str) -> str:
        """The owner's address of a memory that is forwarded from here, if nothing of it is under way."""
        lane = self._lanes.get(memory)
        return lane.route if lane is not None and lane.idle else ""

    def _open(self, lane: Lane) -> pb.SessionRequest:
        request_id = next(self._ids)
        lane.opening = True
        self._opening[request_id] = lane
        return pb.SessionRequest(open=pb.Open(request_id=request_id, handle=next(self._handles), memory=lane.memory))

    def _close(self, handle: int) -> None:
        self._urgent.append(pb.SessionRequest(close=pb.Close(handle=handle)))
        self._changed.set()

    def _frame(self, limits: Limits, now_s: float) -> pb.SessionRequest | None:
        """Goes once along the line, from lane to lane, and takes what can share a frame with the first request."""
        first = self._line[0].pending[0]
        room, requests, handles, served = self._room(limits, first), list[Request](), list[int](), list[Lane]()
        if first.rows > room.patterns:
            return None  # its turn comes before that of smaller ones behind it
        for _ in range(len(self._line)):
            lane = self._dequeue()
            taken = lane.take(first.shelf, room) if lane.handle else []
            lane.unanswered += len(taken)
            requests += taken
            handles += [lane.handle] * len(taken)
            if taken:
                served.append(lane)
            else:
                self._append(lane)
        for lane in served:
            self._append(lane)
        self._count(requests)
        return frame(requests, handles, now_s)

    def _room(self, limits: Limits, first: Request) -> Room:
        patterns = min(limits.patterns, self._in_flight_limit - self._in_flight)
        if not self._in_flight:  # else a request larger than the bound would wait for ever
            patterns = max(patterns, first.rows)
        return Room(patterns, limits.payload_bytes)

    def _count(self, requests: list[Request]) -> None:
        for request in requests:
            self._in_flight += request.rows
            self._sent[request.id] = request
            if request.shelf.ask.operation is Operation.STORE and not request.sequence:
                request.sequence = self._sequences[request.memory] = self._sequences.get(request.memory, 0) + 1

    def _release(self, lane: Lane) -> None:
        lane.held = False
        self._enqueue(lane)

    def _enqueue(self, lane: Lane) -> None:
        self._append(lane)
        self._changed.set()

    def _append(self, lane: Lane) -> None:
        if lane.sendable and not lane.queued:
            lane.queued = True
            self._line.append(lane)

    def _dequeue(self) -> Lane:
        lane = self._line.popleft()
        lane.queued = False
        return lane
