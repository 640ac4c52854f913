"""Unary queries to any server of the contract, without the SDK."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import numpy as np
from _tenants import Vectors
from grpc import aio

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc

Ask: TypeAlias = Callable[[int, Vectors], Awaitable[object]]
"""Query of a memory, by its number, with one cue (d)"""


@asynccontextmanager
async def unary(address: str) -> AsyncIterator[Ask]:
    """Open a channel to a server of the contract, and yield its unary queries."""
    async with aio.insecure_channel(address) as channel:
        stub = rpc.MemoryDataStub(channel)

        async def ask(tenant: int, cue: Vectors) -> object:
            answer = await stub.Query(pb.QueryRequest(memory=str(tenant), tensors=[tensor_of(cue[None])]))
            return np.frombuffer(answer.tensors[0].data, np.float32)

        yield ask


def tensor_of(values: Vectors) -> pb.Tensor:
    """Return patterns (queries, d) as a tensor of the wire."""
    return pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=values.shape, data=values.tobytes())
