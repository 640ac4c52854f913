"""Requests of one link: those that wait, those that are sent and not answered, and the next frame."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import NamedTuple

from attractor._concurrency import Signal
from attractor._errors import AttractorError
from attractor._session.frames import FrameRoom, build_frame
from attractor._session.memory_queues import MemoryQueue, MemoryQueues
from attractor._session.request import Request
from attractor._session.sequences import Sequences
from attractor._settings import Limits, Retry
from attractor_proto.v1 import memory_data_pb2 as pb


class _Sent(NamedTuple):
    request: Request
    queue: MemoryQueue


class Outbox:
    """Requests of a link, each kept until it is answered, so that a new stream can go on where a lost one ended.

    The number of waiting requests has no bound of its own: for each of them a caller waits. Requests that are sent and
    not answered are bounded, in patterns.
    """

    def __init__(
        self, *, sequences: Sequences, ids: "count[int]", in_flight_patterns: int, release: Callable[[str], None]
    ) -> None:
        """`sequences` and `ids` belong to the client, not to the link; `release` is called with memories given up."""
        self._sequences = sequences
        self._ids = ids
        self._in_flight_limit = in_flight_patterns
        self._release_memory = release
        self._in_flight = 0
        self._queues = MemoryQueues()
        self._sent: dict[int, _Sent] = {}
        self._opening: dict[int, MemoryQueue] = {}
        self._closing: deque[int] = deque()
        self._unwanted: list[int] = []
        self._handles = count(1)
        self.changed = Signal()
        """Given when there may be more to send."""
        self.draining = False
        """Whether no new request may be sent."""

    @property
    def needs_stream(self) -> bool:
        """Whether a request waits to be sent."""
        return self._queues.peek_turn() is not None

    @property
    def awaits_results(self) -> bool:
        """Whether a request was sent and not answered."""
        return bool(self._sent)

    def put(self, request: Request) -> None:
        """Add a new request."""
        queue = self._queues.use(request.memory)
        queue.pending.append(request)
        self._give_turn(queue)
        if (surplus := self._queues.find_surplus()) is not None:
            self.remove(surplus.memory)
            self._release_memory(surplus.memory)

    def requeue(self, requests: Iterable[Request]) -> None:
        """Add requests that were under way or on another link, each at its place in the order of its memory."""
        by_memory: dict[str, list[Request]] = {}
        for request in requests:
            by_memory.setdefault(request.memory, []).append(request)
        for memory, group in by_memory.items():
            queue = self._queues.use(memory)
            queue.requeue(group)
            self._give_turn(queue)

    def next_message(self, limits: Limits, now_s: float) -> pb.SessionRequest | None:
        """Return the message to send now, or None until there is a change."""
        if self._closing:
            return pb.SessionRequest(close=pb.Close(handle=self._closing.popleft()))
        if self._unwanted:
            unwanted, self._unwanted = self._unwanted, []
            return pb.SessionRequest(cancel=pb.Cancel(request_ids=unwanted))
        if self.draining or (queue := self._queues.peek_turn()) is None:
            return None
        return self._next_frame(queue, limits, now_s) if queue.handle else self._open(self._queues.pop_turn())

    def remove_sent(self, request_id: int) -> Request | None:
        """Return the request of a result or failure, if it is still known; it is under way no longer."""
        if (sent := self._sent.pop(request_id, None)) is None:
            return None
        self._in_flight -= sent.request.rows
        sent.queue.in_flight -= 1
        self._give_turn(sent.queue)
        return sent.request

    def complete(self, request_id: int) -> Request | None:
        """Remove a request that succeeded: the next failure is a first one, and the sequence number is acknowledged."""
        if (sent := self._sent.get(request_id)) is not None:
            sent.queue.failures = 0
            self._sequences.acknowledge(sent.request.memory, sent.request.sequence)
        return self.remove_sent(request_id)

    def iter_unfinished(self) -> Iterator[Request]:
        """Yield all requests that wait or are under way here."""
        yield from (sent.request for sent in self._sent.values())
        for queue in self._queues:
            yield from queue.pending

    def get_sent(self, request_id: int) -> Request | None:
        """Return a request that is under way."""
        sent = self._sent.get(request_id)
        return sent.request if sent else None

    def abandon(self, request: Request) -> None:
        """Cancel a request, on the server if it was sent."""
        if request.id in self._sent:
            self._unwanted.append(request.id)
            self.changed.notify()
        elif (queue := self._queues.get(request.memory)) is not None:
            queue.count_abandoned()

    def bind_handle(self, opened: pb.Opened) -> MemoryQueue | None:
        """Bind a handle. Return the queue it is for, unless that was given up meanwhile."""
        queue = self._opening.pop(opened.request_id, None)
        if queue is None or self._queues.get(queue.memory) is not queue:
            self._close(opened.handle)
            return None
        queue.handle, queue.route, queue.opening = opened.handle, opened.route, False
        self._sequences.acknowledge(queue.memory, opened.last_sequence)
        self._give_turn(queue)
        return queue

    def reject_open(self, request_id: int) -> MemoryQueue | None:
        """Note that a handle could not be bound. Return the queue it was for."""
        if (queue := self._opening.pop(request_id, None)) is not None:
            queue.opening = False
        return queue

    def delay(self, memory: str, requests: list[Request], retry: Retry) -> None:
        """Put requests back, to be sent again after a while; requests behind them wait, too.

        Where nothing but a handle was lost, most often because the memory moved, another one is asked for at once.
        """
        queue = self._queues.use(memory)
        queue.requeue(requests)
        if queue.delayed:
            return
        queue.failures += 1
        if queue.failures == 1 and not queue.handle and requests:
            self._give_turn(queue)
        else:
            queue.delayed = True
            asyncio.get_running_loop().call_later(retry.delay_s(queue.failures), self._end_delay, queue)

    def record_failure(self, failure: AttractorError, memory: str = "") -> None:
        """Note why waiting requests have to wait: all of them, or those of one memory."""
        for queue in self._queues:
            if memory in ("", queue.memory):
                for request in queue.pending:
                    request.failure = failure

    def reset(self) -> list[Request]:
        """Forget the stream and every handle on it. Return the requests that were sent and are still wanted."""
        in_flight = [sent.request for sent in self._sent.values() if sent.request.alive]
        self._sent.clear()
        self._opening.clear()
        self._closing.clear()
        self._unwanted.clear()
        self._in_flight, self._handles, self.draining = 0, count(1), False
        for queue in self._queues:
            queue.unbind()
            self._give_turn(queue)
        return in_flight

    def remove(self, memory: str) -> list[Request]:
        """Give up a memory and its handle. Return its waiting requests; those under way stay so."""
        if (queue := self._queues.pop(memory)) is None:
            return []
        if queue.handle:
            self._close(queue.handle)
        pending, queue.pending = list(queue.pending), deque()
        return pending

    def remove_all(self) -> list[Request]:
        """Give up all memories. Return their waiting requests."""
        return [request for queue in list(self._queues) for request in self.remove(queue.memory)]

    def fail(self, error: AttractorError) -> None:
        """Fail all requests that wait or are under way."""
        for request in [*self.reset(), *self.remove_all()]:
            request.fail(error.copy())

    def has_queue(self, memory: str) -> bool:
        """Return whether the memory has a queue here."""
        return self._queues.get(memory) is not None

    def has_work(self, memory: str) -> bool:
        """Return whether a request of the memory waits here, or is under way."""
        queue = self._queues.get(memory)
        return queue is not None and not queue.idle

    def has_in_flight(self, memory: str) -> bool:
        """Return whether a response about the memory is to be expected."""
        queue = self._queues.get(memory)
        return queue is not None and (queue.in_flight > 0 or queue.opening)

    def unbind(self, memory: str, handle: int = 0) -> None:
        """Open the memory anew when it is next used; if `handle` is given, only where it still has that one."""
        if (queue := self._queues.get(memory)) is not None and queue.handle and handle in (0, queue.handle):
            self._close(queue.handle)
            queue.handle, queue.route = 0, ""

    def get_idle_route(self, memory: str) -> str:
        """Return the owner's address of a memory that is forwarded from here, if it has no requests here."""
        queue = self._queues.get(memory)
        return queue.route if queue is not None and queue.idle else ""

    def _open(self, queue: MemoryQueue) -> pb.SessionRequest:
        request_id = next(self._ids)
        queue.opening = True
        self._opening[request_id] = queue
        return pb.SessionRequest(open=pb.Open(request_id=request_id, handle=next(self._handles), memory=queue.memory))

    def _close(self, handle: int) -> None:
        self._closing.append(handle)
        self.changed.notify()

    def _next_frame(self, queue: MemoryQueue, limits: Limits, now_s: float) -> pb.SessionRequest | None:
        first = queue.pending[0]
        room = self._make_room(limits, first)
        if first.rows > room.patterns:
            return None  # its turn comes before that of smaller ones behind it
        taken = self._queues.take(first.batch_key, room)
        for request, queue in taken:
            self._add_sent(request, queue)
        return build_frame([request for request, _ in taken], now_s)

    def _make_room(self, limits: Limits, first: Request) -> FrameRoom:
        patterns = min(limits.patterns, self._in_flight_limit - self._in_flight)
        if not self._in_flight:  # else a request larger than the bound would wait for ever
            patterns = max(patterns, first.rows)
        return FrameRoom(patterns, limits.payload_bytes)

    def _add_sent(self, request: Request, queue: MemoryQueue) -> None:
        self._in_flight += request.rows
        self._sent[request.id] = _Sent(request, queue)
        if request.batch_key.spec.operation.writes and not request.sequence:
            request.sequence = self._sequences.next(request.memory)

    def _end_delay(self, queue: MemoryQueue) -> None:
        queue.delayed = False
        self._give_turn(queue)

    def _give_turn(self, queue: MemoryQueue) -> None:
        self._queues.give_turn(queue)
        self.changed.notify()
