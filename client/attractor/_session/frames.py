"""Requests side by side in one frame of the session."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attractor._arrays import Column
from attractor._session.request import Operation, Request
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1.memories_pb2 import Item

_DEADLINE_LIMIT_MS = 2**32 - 1


@dataclass(slots=True)
class Room:
    """What still fits in a frame."""

    patterns: int
    payload_bytes: int
    empty: bool = True

    def take(self, request: Request) -> bool:
        """Whether the request fits; if so, its place is taken."""
        if request.rows > self.patterns or (request.weight_bytes > self.payload_bytes and not self.empty):
            return False
        self.patterns -= request.rows
        self.payload_bytes -= request.weight_bytes
        self.empty = False
        return True


def frame(requests: Sequence[Request], now_s: float) -> pb.SessionRequest:
    """One frame of requests from the same shelf, in that order."""
    ask = requests[0].shelf.ask
    message = pb.SessionRequest()  # filled in place: a message given to another one's constructor is copied whole
    match ask.operation:
        case Operation.STORE:
            message.store.sequences.extend([request.sequence for request in requests])
            message.store.items.extend(_items(requests))
            _fill(message.store.columns, requests, now_s)
        case Operation.ERASE:
            message.erase.sequences.extend([request.sequence for request in requests])
            _fill(message.erase.columns, requests, now_s)
        case Operation.QUERY:
            query = message.query
            query.steps, query.trajectory, query.pull_known = ask.steps, ask.trajectory, ask.pull
            query.match = ask.match
            _fill(query.columns, requests, now_s)
        case _:
            _fill(message.recognize.columns, requests, now_s)
    return message


def _items(requests: Sequence[Request]) -> list[Item]:
    """What the patterns of all requests carry, one for each; none where none carries anything."""
    if not any(request.packed.items for request in requests):
        return []
    nothing = Item()
    return [item for request in requests for item in request.packed.items or [nothing] * request.rows]


def _fill(columns: pb.RequestColumns, requests: Sequence[Request], now_s: float) -> None:
    columns.request_ids.extend([request.id for request in requests])
    columns.handles.extend([request.handle for request in requests])
    columns.patterns.extend([request.rows for request in requests])
    columns.deadline_ms.extend(_deadlines(requests, now_s))
    for parts in zip(*(request.packed.columns for request in requests), strict=True):
        first = parts[0]
        columns.tensors.add(
            field=first.field,
            dtype=first.dtype,
            shape=(sum([len(part.values) for part in parts]), *first.values.shape[1:]),
            data=b"".join([part.values.tobytes() for part in parts]),
            known=_known(parts),
        )


def _deadlines(requests: Sequence[Request], now_s: float) -> list[int]:
    """Milliseconds from now, rounded up; 0 for what is too long to be said, none where nothing has a limit."""
    left_ms = [(request.deadline_s - now_s) * 1000 for request in requests]
    if min(left_ms) > _DEADLINE_LIMIT_MS:
        return []
    return [0 if ms > _DEADLINE_LIMIT_MS else max(1, math.ceil(ms)) for ms in left_ms]


def _known(columns: Sequence[Column]) -> bytes:
    if all(column.known is None for column in columns):
        return b""
    masks = [
        np.zeros(column.values.size, np.bool_) if column.known is None else column.known.ravel() for column in columns
    ]
    return np.packbits(np.concatenate(masks), bitorder="little").tobytes()
