"""Frames of the session: requests side by side in one message."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attractor._arrays import Column
from attractor._session.request import Request
from attractor_proto.traces import TRACE_BYTES
from attractor_proto.v1 import memory_data_pb2 as pb

_DEADLINE_LIMIT_MS = 2**32 - 1
_NO_TRACE = bytes(TRACE_BYTES)


@dataclass(slots=True)
class FrameRoom:
    """Room that is left in a frame."""

    patterns: int
    payload_bytes: int
    empty: bool = True

    def reserve(self, request: Request) -> bool:
        """Take the request's room and return True; return False if it does not fit."""
        if request.rows > self.patterns or (request.message_bytes > self.payload_bytes and not self.empty):
            return False
        self.patterns -= request.rows
        self.payload_bytes -= request.message_bytes
        self.empty = False
        return True


def build_frame(requests: Sequence[Request], now_s: float) -> pb.SessionRequest:
    """Return a frame of requests with one batch key, in that order."""
    message = pb.SessionRequest()  # filled in place: a message given to another one's constructor is copied whole
    columns = requests[0].batch_key.spec.operation.encode(message, requests)
    columns.request_ids.extend([request.id for request in requests])
    columns.handles.extend([request.handle for request in requests])
    columns.patterns.extend([request.rows for request in requests])
    columns.deadline_ms.extend(_encode_deadlines(requests, now_s))
    if any(request.trace for request in requests):
        columns.trace_parents = b"".join([request.trace or _NO_TRACE for request in requests])
    for parts in zip(*(request.packed.columns for request in requests), strict=True):
        first = parts[0]
        columns.tensors.add(
            field=first.field,
            dtype=first.dtype,
            shape=(sum([len(part.values) for part in parts]), *first.values.shape[1:]),
            data=b"".join([part.values.tobytes() for part in parts]),
            known=pack_masks(parts),
        )
    return message


def _encode_deadlines(requests: Sequence[Request], now_s: float) -> list[int]:
    """Return milliseconds from now, rounded up, 0 beyond the field's range; nothing if all are beyond it."""
    left_ms = [(request.deadline_s - now_s) * 1000 for request in requests]
    if min(left_ms) > _DEADLINE_LIMIT_MS:
        return []
    return [0 if ms > _DEADLINE_LIMIT_MS else max(1, math.ceil(ms)) for ms in left_ms]


def pack_masks(columns: Sequence[Column]) -> bytes:
    """Return the masks of known entries, one behind the other, a bit each; nothing where there are none."""
    if all(column.known is None for column in columns):
        return b""
    masks = [
        np.zeros(column.values.size, np.bool_) if column.known is None else column.known.ravel() for column in columns
    ]
    return np.packbits(np.concatenate(masks), bitorder="little").tobytes()
