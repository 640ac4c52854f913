"""The contract by hand: frames out, frames in, and the errors as they travel."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

import anyio
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from numpy.typing import NDArray

from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb

WAIT_S = 20
HELLO = pb.Hello(protocol_version=1, client_id="tests")
Array = NDArray[np.generic]
_DTYPES = {"float32": pb.DTYPE_FLOAT32, "float16": pb.DTYPE_FLOAT16, "uint8": pb.DTYPE_UINT8}


def tensor(values: Array, *, field: str = "", known: NDArray[np.bool_] | None = None) -> pb.Tensor:
    """Patterns (n, *shape) as the wire has them."""
    mask = b"" if known is None else np.packbits(known.ravel(), bitorder="little").tobytes()
    return pb.Tensor(
        field=field, dtype=_DTYPES[values.dtype.name], shape=values.shape, data=values.tobytes(), known=mask
    )


def values_of(message: pb.Tensor) -> NDArray[np.float32]:
    return np.frombuffer(message.data, "<f4").reshape(message.shape)


def columns(ids: Sequence[int], handles: Sequence[int], *tensors: pb.Tensor, rows: int = 1) -> pb.RequestColumns:
    """Requests with the same number of rows each."""
    return pb.RequestColumns(request_ids=ids, handles=handles, patterns=[rows] * len(ids), tensors=tensors)


async def create(
    channel: aio.Channel, name: str, model: str = "tiny", settings: memories_pb2.MemorySettings | None = None
) -> None:
    request = memories_pb2.CreateRequest(name=name, model=model, settings=settings)
    await memories_pb2_grpc.MemoriesStub(channel).Create(request)


async def state(channel: aio.Channel, name: str) -> tuple[int, int]:
    """Version of a memory, and patterns in it."""
    answer = await memories_pb2_grpc.MemoriesStub(channel).Get(memories_pb2.GetRequest(name=name))
    return answer.memory.version, answer.memory.patterns


class RawSession:
    """One stream; every wait has a limit."""

    def __init__(self, call: "aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse]") -> None:
        self.call = call
        self.ids = count(1)

    async def send(self, frame: pb.SessionRequest) -> None:
        with anyio.fail_after(WAIT_S):
            await self.call.write(frame)

    async def receive(self) -> pb.SessionResponse:
        with anyio.fail_after(WAIT_S):
            frame = await self.call.read()
        assert isinstance(frame, pb.SessionResponse), "the stream ended"
        return frame

    async def ask(self, frame: pb.SessionRequest) -> pb.SessionResponse:
        await self.send(frame)
        return await self.receive()

    async def open(self, memory: str, handle: int) -> pb.SessionResponse:
        return await self.ask(pb.SessionRequest(open=pb.Open(request_id=next(self.ids), handle=handle, memory=memory)))

    async def ended(self) -> aio.AioRpcError:
        """The error that the stream ends with."""
        try:
            with anyio.fail_after(WAIT_S):
                while isinstance(await self.call.read(), pb.SessionResponse):
                    pass
        except aio.AioRpcError as error:
            return error
        raise AssertionError(f"the stream ended with {await self.call.code()}")


@asynccontextmanager
async def raw_session(
    channel: aio.Channel, *, hello: pb.Hello = HELLO, metadata: tuple[tuple[str, str], ...] = ()
) -> AsyncIterator[RawSession]:
    """A stream that was welcomed."""
    call = memory_data_pb2_grpc.MemoryDataStub(channel).Session(metadata=metadata)
    session = RawSession(call)
    try:
        welcome = await session.ask(pb.SessionRequest(hello=hello))
        assert welcome.HasField("welcome")
        yield session
    finally:
        call.cancel()


def failures(frame: pb.SessionResponse) -> dict[int, status_pb2.Status]:
    """The statuses of a failures frame, by request."""
    assert frame.WhichOneof("frame") == "failures", frame
    return {failure.request_id: failure.status for failure in frame.failures.failures}


def status_of(error: aio.AioRpcError) -> status_pb2.Status:
    """What a failed call carries."""
    details = dict(error.trailing_metadata() or ())
    data = details["grpc-status-details-bin"]
    assert isinstance(data, bytes)
    return status_pb2.Status.FromString(data)


def reason(status: status_pb2.Status) -> str:
    """The stable word of an error."""
    return _info(status).reason


def route(status: status_pb2.Status) -> str:
    """Where a memory that moved is, as an error tells it."""
    return _info(status).metadata["route"]


def _info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """Of an error; its domain is ours."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "attractor"
            return info
    raise AssertionError(f"no ErrorInfo in {status}")


def violations(status: status_pb2.Status) -> list[tuple[str, str]]:
    """Field and description of each violation."""
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return [(violation.field, violation.description) for violation in bad.field_violations]
    raise AssertionError(f"no BadRequest in {status}")


def violation(status: status_pb2.Status) -> tuple[str, str]:
    """Field and description of the only violation."""
    (only,) = violations(status)
    return only
