"""Answers of a session, in order, put together into as few frames as possible."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from time import perf_counter

import grpc
from grpc import aio

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.errors import Exhausted, ServerError
from attractor_server.fields import Layout
from attractor_server.memories.outcomes import Outcome, Recalled
from attractor_server.recorder import OK, SILENT, Recorder
from attractor_server.rpc.context import Context
from attractor_server.rpc.errors import encode_status, log_unforeseen
from attractor_server.rpc.operations import BY_OUTCOME, SMALL_BYTES
from attractor_server.scheduling.signal import Signal
from attractor_server.shard.budget import Account

logger = logging.getLogger(__name__)

_LINE_LIMIT = 4096

_COPIES = 2
"""Copies of an answer: as it was computed, and in the frame"""

_FAILURE_BYTES = 2048
"""Room for one failure with its message and details."""


@dataclass(slots=True, eq=False)  # as below
class Asked:
    """Requests that came together, for the record of them."""

    operation: str
    model: str = ""
    """Empty where they failed before that was known"""
    started_s: float = 0.0
    """When they came, on `perf_counter`"""


@dataclass(slots=True, eq=False)  # not frozen: that would double what it costs to make one
class PendingResponse:
    """One answer to send: the outcome of a request, or a frame that is ready."""

    content: Outcome | ServerError | pb.SessionResponse
    request_id: int = 0
    layout: Layout | None = None
    """Layout of the recalled values"""
    weight: int = 0
    """Reserved room that becomes free once it is sent"""
    held_bytes: int = 0
    """Room of the session's account that is given back then"""
    asked: Asked | None = None
    """The request that it answers; None for what is recorded elsewhere"""
    room_bytes: int = 0
    """Its `size_bytes`, once it is put"""

    @property
    def kind(self) -> tuple[object, ...]:
        """Key by which neighbours share a frame."""
        content = self.content
        if (wire := BY_OUTCOME.get(type(content))) is not None and wire.share is not None:
            return wire.share(content, self.layout)
        if isinstance(content, pb.SessionResponse):
            return (self,)
        return (ServerError if isinstance(content, ServerError) else type(content),)

    @property
    def size_bytes(self) -> int:
        """Room that it takes of a frame, at most."""
        if (wire := BY_OUTCOME.get(type(self.content))) is not None:
            return SMALL_BYTES if wire.size_bytes is None else wire.size_bytes(self.content)
        return self.content.ByteSize() if isinstance(self.content, pb.SessionResponse) else _FAILURE_BYTES


class ResponseQueue:
    """A bounded queue of answers, written by one task. Use it from one event loop."""

    def __init__(
        self, context: Context, account: Account, *, weight_limit: int, message_bytes: int, recorder: Recorder
    ) -> None:
        """`weight_limit` bounds what is reserved: patterns under way in the server, and iterates of trajectories."""
        self._context = context
        self._account = account
        self._weight_limit = weight_limit
        self._recorder = recorder
        self._frame_bytes = message_bytes - message_bytes // 16
        self._line: list[PendingResponse] = []
        self._reserved = 0
        self._unsent = 0
        self.changes = Signal()
        """Something was put or sent"""

    @property
    def all_sent(self) -> bool:
        """Whether nothing waits here."""
        return self._unsent == 0

    async def reserve(self, weight: int) -> None:
        """Wait until so much more may be under way; an item of that weight gives it back."""
        while self._reserved and self._reserved + weight > self._weight_limit:
            await self.changes.wait()
        self._reserved += weight

    def put(self, item: PendingResponse) -> None:
        """Take one more answer; where matches make it longer than a message may be, its request fails."""
        size_bytes = item.size_bytes
        if size_bytes > self._frame_bytes and isinstance(item.content, Recalled) and item.content.matches:
            item.content = _too_long_error(item, self._frame_bytes)
            size_bytes = item.size_bytes
        item.room_bytes = size_bytes
        if (more := _COPIES * size_bytes - item.held_bytes) > 0:
            self._account.add(more)
            item.held_bytes += more
        self._line.append(item)
        self._unsent += 1
        self.changes.notify()

    async def wait_for_room(self) -> None:
        """Wait until the queue is short enough for the answers to another frame."""
        while self._unsent > _LINE_LIMIT:
            await self.changes.wait()

    async def run(self) -> None:
        """Send what is put, until cancelled, or until the client is gone."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._line:
                await self.changes.wait()
            line, self._line = self._line, []
            for frame, sent in pack_frames(line, self._frame_bytes):
                self._account.unread_since_s = loop.time()
                try:
                    await self._context.write(frame)
                except (grpc.RpcError, aio.UsageError, aio.InternalError, asyncio.InvalidStateError) as error:
                    logger.debug("the client is gone: %r", error)
                    return
                self._account.unread_since_s = None
                self._account.give(sum(item.held_bytes for item in sent))
                self._reserved -= sum(item.weight for item in sent)
                self._unsent -= len(sent)
                if self._recorder is not SILENT:
                    self._record(sent)
                self.changes.notify()

    def _record(self, sent: Sequence[PendingResponse]) -> None:
        """Report the requests that were answered together."""
        now_s = perf_counter()
        alike: dict[tuple[str, str, str], list[float]] = {}
        for item in sent:
            if (asked := item.asked) is not None:
                reason = item.content.reason if isinstance(item.content, ServerError) else OK
                alike.setdefault((asked.operation, asked.model, reason), []).append(now_s - asked.started_s)
        for (operation, model, reason), took_s in alike.items():
            self._recorder.record_answers(operation, model, "session", reason, took_s)


def _too_long_error(item: PendingResponse, limit_bytes: int) -> ServerError:
    return Exhausted(
        f"the answer with its matches and their payloads has about {item.size_bytes} bytes, and at most {limit_bytes} "
        "may be told at once: query fewer patterns at a time"
    )


def pack_frames(
    items: Iterable[PendingResponse], limit_bytes: int
) -> Iterator[tuple[pb.SessionResponse, Sequence[PendingResponse]]]:
    """Yield frames in the order of the items, each with the items that are answered when it is sent."""
    for _, neighbours in groupby(items, key=lambda item: item.kind):
        for chunk in _chunks(neighbours, limit_bytes):
            yield from _encode(chunk)


def _encode(chunk: Sequence[PendingResponse]) -> Iterator[tuple[pb.SessionResponse, Sequence[PendingResponse]]]:
    """Yield the frames of neighbours; a failure for an answer that cannot be encoded."""
    try:
        *before, last = _encode_chunk(chunk)
    except Exception as error:
        if len(chunk) > 1:  # which of them it is shows where each is alone
            yield from chain.from_iterable(_encode([item]) for item in chunk)
            return
        chunk[0].content = log_unforeseen(error, "an answer")
        *before, last = _encode_chunk(chunk)
    yield from ((frame, ()) for frame in before)
    yield last, chunk


def _chunks(items: Iterable[PendingResponse], limit_bytes: int) -> Iterator[list[PendingResponse]]:
    chunk: list[PendingResponse] = []
    room = limit_bytes
    for item in items:
        size_bytes = item.room_bytes or item.size_bytes
        if chunk and size_bytes > room:
            yield chunk
            chunk, room = [], limit_bytes
        chunk.append(item)
        room -= size_bytes
    yield chunk


def _encode_chunk(chunk: Sequence[PendingResponse]) -> Iterator[pb.SessionResponse]:
    """Yield the frames of neighbours of one kind."""
    first = chunk[0].content
    if (wire := BY_OUTCOME.get(type(first))) is not None:
        yield from wire.encode([item.request_id for item in chunk], chunk[0].layout, [item.content for item in chunk])
    elif isinstance(first, pb.SessionResponse):
        yield first
    else:
        failures = [
            pb.Failure(request_id=item.request_id, status=encode_status(item.content))
            for item in chunk
            if isinstance(item.content, ServerError)
        ]
        yield pb.SessionResponse(failures=pb.Failures(failures=failures))
