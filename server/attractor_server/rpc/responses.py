"""What a session has to tell its client, in order, put together into as few frames as it can be."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import grpc
import numpy as np
from grpc import aio

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.errors import Exhausted, ServerError
from attractor_server.fields import Layout
from attractor_server.memories.outcomes import Erased, Outcome, Recalled, Recognized, Stored
from attractor_server.rpc import codec
from attractor_server.rpc.context import Context
from attractor_server.rpc.errors import to_status, unforeseen
from attractor_server.shard.budget import Account

logger = logging.getLogger(__name__)

_LINE_LIMIT = 4096

_COPIES = 2
"""Of an answer: as it was computed, and in the frame"""

_FAILURE_BYTES = 2048
"""Room for one failure with its message and details."""


@dataclass(slots=True, eq=False)  # not frozen: that would double what it costs to make one
class PendingResponse:
    """One thing to tell: the outcome of a request, or a frame that is ready to be sent."""

    content: Outcome | ServerError | pb.SessionResponse
    request_id: int = 0
    layout: Layout | None = None
    """Of the recalled values"""
    weight: int = 0
    """Reserved room that becomes free once it is sent"""
    held_bytes: int = 0
    """Of the session's account, which it gives back then"""

    @property
    def kind(self) -> tuple[object, ...]:
        """Neighbours of one kind share a frame."""
        match self.content:
            case Recalled(matches=matches):
                return (Recalled, self.layout, matches is None)
            case Recognized(probability=probability):
                return (Recognized, probability is None)
            case pb.SessionResponse():
                return (self,)
            case ServerError():
                return (ServerError,)
        return (type(self.content),)

    @property
    def size_bytes(self) -> int:
        """What it takes of a frame, at most."""
        if isinstance(self.content, Recalled):
            return self.content.values.nbytes + 64 * len(self.content.values) + _matches_bytes(self.content)
        if isinstance(self.content, Recognized):
            return 32 * len(self.content.energy)
        if isinstance(self.content, pb.SessionResponse):
            return self.content.ByteSize()
        return _FAILURE_BYTES if isinstance(self.content, ServerError) else 64


class ResponseQueue:
    """A bounded line of answers, written by one task. Use it from one event loop."""

    def __init__(self, context: Context, account: Account, *, weight_limit: int, message_bytes: int) -> None:
        """`weight_limit` bounds what is reserved: patterns under way in the server, and iterates of trajectories."""
        self._context = context
        self._account = account
        self._weight_limit = weight_limit
        self._frame_bytes = message_bytes - message_bytes // 16
        self._line: list[PendingResponse] = []
        self._reserved = 0
        self._unsent = 0
        self._changed = asyncio.Event()
        self._awaited = False
        """Somebody waits for that event"""

    @property
    def all_sent(self) -> bool:
        """Nothing waits here."""
        return self._unsent == 0

    async def reserve(self, weight: int) -> None:
        """Waits until so much more may be under way; an item of that weight gives it back."""
        while self._reserved and self._reserved + weight > self._weight_limit:
            await self.changed()
        self._reserved += weight

    def put(self, item: PendingResponse) -> None:
        """Takes one more thing to tell; where matches make it longer than a message may be, its request fails."""
        if isinstance(item.content, Recalled) and item.content.matches and item.size_bytes > self._frame_bytes:
            item.content = _too_long(item, self._frame_bytes)
        if (more := _COPIES * item.size_bytes - item.held_bytes) > 0:
            self._account.add(more)
            item.held_bytes += more
        self._line.append(item)
        self._unsent += 1
        self._announce()

    async def room(self) -> None:
        """Waits until the line is short enough for the answers to another frame."""
        while self._unsent > _LINE_LIMIT:
            await self.changed()

    async def changed(self) -> None:
        """Waits until something was put or sent."""
        self._awaited = True
        await self._changed.wait()

    async def run(self) -> None:
        """Sends what is put, until cancelled, or until the client is gone."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._line:
                await self.changed()
            line, self._line = self._line, []
            for frame, sent in frames_of(line, self._frame_bytes):
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
                self._announce()

    def _announce(self) -> None:
        if self._awaited:
            self._changed.set()
            self._changed, self._awaited = asyncio.Event(), False


def _matches_bytes(recalled: Recalled) -> int:
    """Of the kept patterns that are told with it."""
    if (matches := recalled.matches) is None:
        return 0
    return matches.values.nbytes + sum(len(item.payload) + 4 * len(item.id) + 16 for item in matches.items)


def _too_long(item: PendingResponse, limit_bytes: int) -> ServerError:
    return Exhausted(
        f"the answer with its matches and their payloads has about {item.size_bytes} bytes, and at most {limit_bytes} "
        "may be told at once: query fewer patterns at a time"
    )


def frames_of(
    items: Iterable[PendingResponse], limit_bytes: int
) -> Iterator[tuple[pb.SessionResponse, Sequence[PendingResponse]]]:
    """Frames in the order of the items, each with the items that are answered when it is sent."""
    for _, neighbours in groupby(items, key=lambda item: item.kind):
        for chunk in _chunks(neighbours, limit_bytes):
            yield from _told(chunk)


def _told(chunk: Sequence[PendingResponse]) -> Iterator[tuple[pb.SessionResponse, Sequence[PendingResponse]]]:
    """The frames of neighbours; a failure for an answer that none can be made of."""
    try:
        *before, last = _frames(chunk)
    except Exception as error:
        if len(chunk) > 1:  # which of them it is shows where each is alone
            yield from chain.from_iterable(_told([item]) for item in chunk)
            return
        chunk[0].content = unforeseen(error, "an answer")
        *before, last = _frames(chunk)
    yield from ((frame, ()) for frame in before)
    yield last, chunk


def _chunks(items: Iterable[PendingResponse], limit_bytes: int) -> Iterator[list[PendingResponse]]:
    chunk: list[PendingResponse] = []
    room = limit_bytes
    for item in items:
        size_bytes = item.size_bytes
        if chunk and size_bytes > room:
            yield chunk
            chunk, room = [], limit_bytes
        chunk.append(item)
        room -= size_bytes
    yield chunk


def _frames(chunk: Sequence[PendingResponse]) -> Iterator[pb.SessionResponse]:
    """The frames of neighbours of one kind."""
    ids = [item.request_id for item in chunk]
    match chunk[0].content:
        case pb.SessionResponse() as ready:
            yield ready
        case Stored():
            stored = [item.content for item in chunk if isinstance(item.content, Stored)]
            versions, totals = [one.version for one in stored], [one.patterns for one in stored]
            yield pb.SessionResponse(stored=pb.StoredFrame(request_ids=ids, versions=versions, totals=totals))
        case Erased():
            erased = [item.content for item in chunk if isinstance(item.content, Erased)]
            versions, totals = [one.version for one in erased], [one.patterns for one in erased]
            yield pb.SessionResponse(erased=pb.ErasedFrame(request_ids=ids, versions=versions, totals=totals))
        case Recalled():
            yield from _recalled(ids, chunk)
        case Recognized():
            yield pb.SessionResponse(recognized=_recognized(ids, chunk))
        case _:
            failures = [
                pb.Failure(request_id=item.request_id, status=to_status(item.content))
                for item in chunk
                if isinstance(item.content, ServerError)
            ]
            yield pb.SessionResponse(failures=pb.Failures(failures=failures))


def _recalled(ids: Sequence[int], chunk: Sequence[PendingResponse]) -> Iterator[pb.SessionResponse]:
    recalled = [item.content for item in chunk if isinstance(item.content, Recalled)]
    layout = chunk[0].layout
    assert layout is not None
    for request_id, one in zip(ids, recalled, strict=True):
        if one.iterates is not None:
            yield from _trajectory(request_id, one, layout)
    answer = pb.SessionResponse()  # filled in place: a message given to another one's constructor is copied whole
    frame = answer.recalled
    frame.request_ids.extend(ids)
    frame.patterns.extend([len(one.values) for one in recalled])
    codec.encode(layout, np.concatenate([one.values for one in recalled]), into=frame.tensors)
    codec.scores(recalled, into=frame.scores)
    codec.matches(layout, recalled, into=frame.matches)
    yield answer


def _trajectory(request_id: int, recalled: Recalled, layout: Layout) -> Iterator[pb.SessionResponse]:
    if recalled.iterates is None or recalled.energies is None:
        return
    for step, (iterate, energy) in enumerate(zip(recalled.iterates, recalled.energies, strict=True)):
        answer = pb.SessionResponse()
        frame = answer.trajectory
        frame.request_id, frame.step = request_id, step
        frame.energy.extend(energy.tolist())
        codec.encode(layout, iterate, into=frame.tensors)
        yield answer


def _recognized(ids: Sequence[int], chunk: Sequence[PendingResponse]) -> pb.RecognizedFrame:
    recognized = [item.content for item in chunk if isinstance(item.content, Recognized)]
    return pb.RecognizedFrame(
        request_ids=ids,
        patterns=[len(one.energy) for one in recognized],
        energy=np.concatenate([one.energy for one in recognized]).tolist(),
        delta_energy=np.concatenate([one.delta_energy for one in recognized]).tolist(),
        probability=[value for one in recognized for value in codec.probabilities(one)],
        pages=codec.pages(recognized),
    )
