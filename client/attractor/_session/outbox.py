"""What waits to be sent on one link, what was sent and is not answered, and which frame goes next."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import NamedTuple

import anyio

from attractor._errors import AttractorError
from attractor._session.frames import Room, frame
from attractor._session.memory_queues import Lane, Lanes
from attractor._session.request import Request
from attractor._session.sequences import Sequences
from attractor._settings import Limits, Retry
from attractor_proto.v1 import memory_data_pb2 as pb


class _Sent(NamedTuple):
    request: Request
    lane: Lane


class Outbox:
    """Everything is kept until it is answered, so that a new stream can go on where a lost one ended.

    The line of waiting requests has no bound of its own: for each of them a caller waits. What is sent and not answered
    is bounded, in patterns.
    """

    def __init__(
        self, *, sequences: Sequences, ids: "count[int]", in_flight_patterns: int, left: Callable[[str], None]
    ) -> None:
        """`sequences` and `ids` belong to the client, not to the link; `left` is told of memories given up here."""
        self._sequences = sequences
        self._ids = ids
        self._in_flight_limit = in_flight_patterns
        self._left = left
        self._in_flight = 0
        self._lanes = Lanes()
        self._sent: dict[int, _Sent] = {}
        self._opening: dict[int, Lane] = {}
        self._closing: deque[int] = deque()
        self._unwanted: list[int] = []
        self._handles = count(1)
        self._changed, self._announced = anyio.Event(), False
        self.draining = False
        """Nothing new may be sent."""

    async def changed(self) -> None:
        """Waits until there may be more to send than at the last look. For one task at a time."""
        await self._changed.wait()
        self._changed, self._announced = anyio.Event(), False

    @property
    def waiting(self) -> bool:
        """Whether a stream is needed."""
        return self._lanes.first() is not None

    @property
    def unanswered(self) -> bool:
        """Whether an answer is to be expected."""
        return bool(self._sent)

    def put(self, request: Request) -> None:
        """Takes a new request."""
        lane = self._lanes.use(request.memory)
        lane.pending.append(request)
        self._enqueue(lane)
        if (surplus := self._lanes.surplus()) is not None:
            self.remove(surplus.memory)
            self._left(surplus.memory)

    def put_back(self, requests: Iterable[Request]) -> None:
        """Takes requests that were under way or on another link, each at its place in the order of its memory."""
        by_memory: dict[str, list[Request]] = {}
        for request in requests:
            by_memory.setdefault(request.memory, []).append(request)
        for memory, group in by_memory.items():
            lane = self._lanes.use(memory)
            lane.put_back(group)
            self._enqueue(lane)

    def next(self, limits: Limits, now_s: float) -> pb.SessionRequest | None:
        """The message to send now, or None until something has changed."""
        if self._closing:
            return pb.SessionRequest(close=pb.Close(handle=self._closing.popleft()))
        if self._unwanted:
            unwanted, self._unwanted = self._unwanted, []
            return pb.SessionRequest(cancel=pb.Cancel(request_ids=unwanted))
        if self.draining or (lane := self._lanes.first()) is None:
            return None
        return self._frame(lane, limits, now_s) if lane.handle else self._open(self._lanes.dequeue())

    def answered(self, request_id: int) -> Request | None:
        """The request that an answer belongs to, if it is still known; it is under way no longer."""
        if (sent := self._sent.pop(request_id, None)) is None:
            return None
        self._in_flight -= sent.request.rows
        sent.lane.unanswered -= 1
        self._enqueue(sent.lane)
        return sent.request

    def succeeded(self, request_id: int) -> Request | None:
        """As `answered`, of one that was carried out: the next failure is a first one, a store's number is known."""
        if (sent := self._sent.get(request_id)) is not None:
            sent.lane.failures = 0
            self._sequences.seen(sent.request.memory, sent.request.sequence)
        return self.answered(request_id)

    def unfinished(self) -> Iterator[Request]:
        """All that waits or is under way here."""
        yield from (sent.request for sent in self._sent.values())
        for lane in self._lanes:
            yield from lane.pending

    def sent(self, request_id: int) -> Request | None:
        """A request that is under way."""
        sent = self._sent.get(request_id)
        return sent.request if sent else None

    def abandon(self, request: Request) -> None:
        """Nobody waits for the answer any more: tells the server, where it was sent."""
        if request.id in self._sent:
            self._unwanted.append(request.id)
            self._announce()
        elif (lane := self._lanes.get(request.memory)) is not None:
            lane.give_up()

    def opened(self, answer: pb.Opened) -> Lane | None:
        """A handle is bound. The lane it is for, unless that was given up meanwhile."""
        lane = self._opening.pop(answer.request_id, None)
        if lane is None or self._lanes.get(lane.memory) is not lane:
            self._close(answer.handle)
            return None
        lane.handle, lane.route, lane.opening = answer.handle, answer.route, False
        self._sequences.seen(lane.memory, answer.last_sequence)
        self._enqueue(lane)
        return lane

    def refused(self, request_id: int) -> Lane | None:
        """A handle could not be bound. The lane it was for."""
        if (lane := self._opening.pop(request_id, None)) is not None:
            lane.opening = False
        return lane

    def hold(self, memory: str, requests: list[Request], retry: Retry) -> None:
        """Takes requests back, to be sent again after a while; what waits behind them waits too.

        Where nothing but a handle was lost, most often because the memory moved, another one is asked for at once.
        """
        lane = self._lanes.use(memory)
        lane.put_back(requests)
        if lane.held:
            return
        lane.failures += 1
        if lane.failures == 1 and not lane.handle and requests:
            self._enqueue(lane)
        else:
            lane.held = True
            asyncio.get_running_loop().call_later(retry.delay_s(lane.failures), self._release, lane)

    def note(self, failure: AttractorError, memory: str = "") -> None:
        """Remembers with everything that waits, or all of one memory, why it has to."""
        for lane in self._lanes:
            if memory in ("", lane.memory):
                for request in lane.pending:
                    request.failure = failure

    def lost(self) -> list[Request]:
        """The stream is gone: every handle with it. What was sent and is still wanted, in order."""
        unanswered = [sent.request for sent in self._sent.values() if sent.request.alive]
        self._sent.clear()
        self._opening.clear()
        self._closing.clear()
        self._unwanted.clear()
        self._in_flight, self._handles, self.draining = 0, count(1), False
        for lane in self._lanes:
            lane.unbind()
            self._enqueue(lane)
        return unanswered

    def remove(self, memory: str) -> list[Request]:
        """Gives up a memory: what waits for it, and its handle. Requests under way stay so."""
        if (lane := self._lanes.pop(memory)) is None:
            return []
        if lane.handle:
            self._close(lane.handle)
        pending, lane.pending = list(lane.pending), deque()
        return pending

    def remove_all(self) -> list[Request]:
        """Everything that waits, of all memories."""
        return [request for lane in list(self._lanes) for request in self.remove(lane.memory)]

    def fail(self, error: AttractorError) -> None:
        """Fails all that waits or is under way."""
        for request in [*self.lost(), *self.remove_all()]:
            request.fail(error.again())

    def knows(self, memory: str) -> bool:
        """Whether the memory has a lane here."""
        return self._lanes.get(memory) is not None

    def holds(self, memory: str) -> bool:
        """Whether something of the memory waits here, or is under way."""
        lane = self._lanes.get(memory)
        return lane is not None and not lane.idle

    def under_way(self, memory: str) -> bool:
        """Whether an answer about the memory is to be expected."""
        lane = self._lanes.get(memory)
        return lane is not None and (lane.unanswered > 0 or lane.opening)

    def unbind(self, memory: str, handle: int = 0) -> None:
        """Opens the memory anew when it is next used; if `handle` is given, only where it still has that one."""
        if (lane := self._lanes.get(memory)) is not None and lane.handle and handle in (0, lane.handle):
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
        self._closing.append(handle)
        self._announce()

    def _frame(self, lane: Lane, limits: Limits, now_s: float) -> pb.SessionRequest | None:
        first = lane.pending[0]
        room = self._room(limits, first)
        if first.rows > room.patterns:
            return None  # its turn comes before that of smaller ones behind it
        taken = self._lanes.take(first.shelf, room)
        for request, lane in taken:
            self._count(request, lane)
        return frame([request for request, _ in taken], now_s)

    def _room(self, limits: Limits, first: Request) -> Room:
        patterns = min(limits.patterns, self._in_flight_limit - self._in_flight)
        if not self._in_flight:  # else a request larger than the bound would wait for ever
            patterns = max(patterns, first.rows)
        return Room(patterns, limits.payload_bytes)

    def _count(self, request: Request, lane: Lane) -> None:
        self._in_flight += request.rows
        self._sent[request.id] = _Sent(request, lane)
        if request.shelf.ask.operation.writes and not request.sequence:
            request.sequence = self._sequences.next(request.memory)

    def _release(self, lane: Lane) -> None:
        lane.held = False
        self._enqueue(lane)

    def _announce(self) -> None:
        """Once for all that comes before somebody looks: an event takes its time to be set."""
        if not self._announced:
            self._announced = True
            self._changed.set()

    def _enqueue(self, lane: Lane) -> None:
        self._lanes.enqueue(lane)
        self._announce()
