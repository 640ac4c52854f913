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
"""Queries a memory by number with one cue (d)"""


@asynccontextmanager
async def unary(address: str) -> AsyncIterator[Ask]:
    """Unary queries to a server of the contract."""
    async with aio.insecure_channel(address) as channel:
        stub = rpc.MemoryDataStub(channel)

        async def ask(tenant: int, cue: Vectors) -> object:
            answer = await stub.Query(pb.QueryRequest(memory=str(tenant), tensors=[tensor_of(cue[None])]))
            return np.frombuffer(answer.tensors[0].data, np.float32)

        yield ask


def tensor_of(values: Vectors) -> pb.Tensor:
    """Patterns (queries, d) as the wire has them."""
    return pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=values.shape, data=values.tobytes())
