"""Requests side by side in one frame of the session."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attractor._patterns import Column
from attractor._request import Operation, Request
from attractor_proto.v1 import memory_data_pb2 as pb

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
    columns = pb.RequestColumns(
        request_ids=[request.id for request in requests],
        handles=[request.handle for request in requests],
        patterns=[request.rows for request in requests],
        deadline_ms=_deadlines(requests, now_s),
        tensors=_tensors(requests),
    )
    if ask.operation is Operation.STORE:
        sequences = [request.sequence for request in requests]
        return pb.SessionRequest(store=pb.StoreFrame(columns=columns, sequences=sequences))
    if ask.operation is Operation.ERASE:
        sequences = [request.sequence for request in requests]
        return pb.SessionRequest(erase=pb.EraseFrame(columns=columns, sequences=sequences))
    if ask.operation is Operation.QUERY:
        query = pb.QueryFrame(columns=columns, steps=ask.steps, trajectory=ask.trajectory, pull_known=ask.pull)
        return pb.SessionRequest(query=query)
    return pb.SessionRequest(recognize=pb.RecognizeFrame(columns=columns))


def _deadlines(requests: Sequence[Request], now_s: float) -> list[int]:
    if all(request.deadline_s == math.inf for request in requests):
        return []
    return [_deadline_ms(request.deadline_s - now_s) for request in requests]


def _deadline_ms(left_s: float) -> int:
    if left_s * 1000 > _DEADLINE_LIMIT_MS:
        return 0
    return max(1, math.ceil(left_s * 1000))


def _tensors(requests: Sequence[Request]) -> list[pb.Tensor]:
    by_field = zip(*(request.packed.columns for request in requests), strict=True)
    return [_tensor(columns) for columns in by_field]


def _tensor(columns: Sequence[Column]) -> pb.Tensor:
    first = columns[0]
    return pb.Tensor(
        field=first.field,
        dtype=first.dtype,
        shape=(sum(len(column.values) for column in columns), *first.values.shape[1:]),
        data=b"".join(column.values.tobytes() for column in columns),
        known=_known(columns),
    )


def _known(columns: Sequence[Column]) -> bytes:
    if all(column.known is None for column in columns):
        return b""
    masks = [
        np.zeros(column.values.size, np.bool_) if column.known is None else column.known.ravel() for column in columns
    ]
    return np.packbits(np.concatenate(masks), bitorder="little").tobytes()
