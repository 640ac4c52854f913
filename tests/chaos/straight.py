"""Calls to the port of a shard that has lost a memory while it was stopped, and what they may be told."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc
import numpy as np
from tests.chaos.ledger import Images, patterns
from tests.chaos.load import KNOWN
from tests.support.raw import tensor, values_of

from attractor_proto.names import FORWARDED_KEY
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc

HERE = ((FORWARDED_KEY, "1"),)
"""Not passed on to another shard"""
ASKED = 20
WAIT_S = 60
SEEN, SAME = 1e-3, 1e-4
"""By how much answers differ after a store at least, and without one at most"""
Answer: TypeAlias = Any  # gRPC's futures are not typed


class Straight:
    """One memory, asked of one shard."""

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        self._unary, self._name = rpc.MemoryDataStub(channel), name

    def store(self, number: int) -> Answer:
        """The answer to come to a store of that pattern."""
        given = pb.StoreRequest(memory=self._name, tensors=[tensor(patterns(self._name, number))])
        return self._unary.Store.future(given, timeout=WAIT_S, metadata=HERE)

    def queries(self) -> Sequence[Answer]:
        """The answers to come to so many queries; every other one may be passed on."""
        return [self._query(here=bool(number % 2)) for number in range(ASKED)]

    def recalled(self) -> Images:
        """What the memory makes of its first pattern now."""
        return values_of(self._query(here=True).result().tensors[0])

    def _query(self, *, here: bool) -> Answer:
        given = patterns(self._name, 1)
        cue = tensor(given, known=np.broadcast_to(KNOWN, given.shape))
        query = pb.QueryRequest(memory=self._name, tensors=[cue])
        return self._unary.Query.future(query, timeout=WAIT_S, metadata=HERE if here else ())


def stored(late: Answer) -> Sequence[str]:
    """What is wrong with the answer to a store: it has to be refused."""
    if late.exception() is None:
        return [f"a late store was acknowledged: {late.result()}"]
    return _told(late)


def stale(late: Sequence[Answer], before: Images, now: Images) -> Sequence[str]:
    """What is wrong with answers to queries: they have to be refused, or be what the memory answers now."""
    if np.abs(now - before).max() < SEEN:
        return ["a store changed nothing that could be seen"]
    problems: list[str] = []
    for answer in late:
        if answer.exception() is not None:
            problems += _told(answer)
        elif np.abs(values_of(answer.result().tensors[0]) - now).max() > SAME:
            problems.append("a late query was answered from before")
    return problems


def _told(failed: Answer) -> Sequence[str]:
    if failed.code() is grpc.StatusCode.UNAVAILABLE:
        return []
    return [f"a late call was told {failed.code()}: {failed.details()}"]
