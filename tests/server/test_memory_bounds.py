"""What a client sends, or leaves unread, takes a bounded part of the server's memory, and for as long as it is used."""

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import numpy as np
import pytest
from grpc import aio
from tests.server import raw
from tests.server.raw import tensor

from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_copies_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_copies_pb2 as copies_pb
from attractor_proto.v1 import memory_data_pb2 as pb

ONE = np.full((1, 4, 4), 0.5, np.float32)
CALLS = 20
WAIT_S = 5


async def _talk(call: Any, request: object) -> None:
    """Sends one message of a stream and reads until its end."""
    await call.write(request)
    await call.done_writing()
    await call


FAILING: dict[str, Callable[[aio.Channel], Awaitable[object]]] = {
    "a memory that is not there": lambda channel: memories_pb2_grpc.MemoriesStub(channel).Get(
        memories_pb2.GetRequest(name="none")
    ),
    "a store of another shape": lambda channel: memory_data_pb2_grpc.MemoryDataStub(channel).Store(
        pb.StoreRequest(memory="a", tensors=[tensor(np.zeros((1, 3), np.float32))])
    ),
    "a store that finds its memory full": lambda channel: memory_data_pb2_grpc.MemoryDataStub(channel).Store(
        pb.StoreRequest(memory="a", tensors=[tensor(ONE)])
    ),
    "an import that begins with its end": lambda channel: _talk(
        memory_copies_pb2_grpc.CopiesStub(channel).Import(),
        copies_pb.ImportRequest(piece=copies_pb.Piece(tail=copies_pb.Tail())),
    ),
}


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is freed but what no reference leads to."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def calls_alive() -> int:
    """Calls that the server in this process still knows."""
    return sum(type(one).__name__ == "_ServicerContext" for one in gc.get_objects())


@pytest.mark.parametrize("case", FAILING)
async def test_a_call_that_failed_is_forgotten_without_the_garbage_collector(channel: aio.Channel, case: str) -> None:
    settings = memories_pb2.MemorySettings(when_full=memories_pb2.WHEN_FULL_REFUSE, page_patterns=1)
    await raw.create(channel, "a", settings=settings)
    await memory_data_pb2_grpc.MemoryDataStub(channel).Store(pb.StoreRequest(memory="a", tensors=[tensor(ONE)]))
    with uncollected():
        before = calls_alive()
        for _ in range(CALLS):
            with pytest.raises(aio.AioRpcError):
                await FAILING[case](channel)
        with suppress(TimeoutError), anyio.fail_after(WAIT_S):
            while calls_alive() > before:
                await anyio.sleep(0.05)
        assert calls_alive() <= before
