"""Server that answers frames of a session, and unary queries, with their own content: the cost of the wire alone."""

import math
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio

from attractor_proto.v1 import memories_pb2 as control
from attractor_proto.v1 import memories_pb2_grpc as control_rpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc


class Data(rpc.MemoryDataServicer):
    """Sessions and unary queries; a cue is its own answer."""

    async def Session(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.SessionRequest],
        context: Any,  # noqa: ANN401
    ) -> AsyncIterator[pb.SessionResponse]:
        async for frame in request_iterator:
            match frame.WhichOneof("frame"):
                case "hello":
                    welcome = pb.Welcome(protocol_version=1, frame_patterns_limit=1024, message_bytes_limit=64 << 20)
                    yield pb.SessionResponse(welcome=welcome)
                case "open":
                    opened = pb.Opened(request_id=frame.open.request_id, handle=frame.open.handle)
                    yield pb.SessionResponse(opened=opened)
                case "query":
                    yield answer_queries(frame.query.columns)

    async def Query(self, request: pb.QueryRequest, context: Any) -> pb.QueryResponse:  # noqa: ANN401, N802
        return pb.QueryResponse(tensors=request.tensors)


def answer_queries(columns: pb.RequestColumns) -> pb.SessionResponse:
    """Return the answer to a frame of queries."""
    answer = pb.SessionResponse()
    frame, patterns = answer.recalled, sum(columns.patterns)
    frame.request_ids.extend(columns.request_ids)
    frame.patterns.extend(columns.patterns)
    for tensor in columns.tensors:
        frame.tensors.add(field=tensor.field, dtype=tensor.dtype, shape=tensor.shape, data=tensor.data)
    for scores in (frame.scores.energy_before, frame.scores.energy_after, frame.scores.delta_energy):
        scores.extend([0.0] * patterns)
    frame.scores.steps.extend([5] * patterns)
    return answer


class Memories(control_rpc.MemoriesServicer):
    """Service in which every memory exists."""

    async def Create(self, request: control.CreateRequest, context: Any) -> control.CreateResponse:  # noqa: ANN401, N802
        settings = control.MemorySettings(
            write=control.WRITE_MODE_REWRITE, when_full=control.WHEN_FULL_GROW, page_patterns=64
        )
        memory = control.Memory(name=request.name, model=request.model, model_digest="sha256:0", settings=settings)
        return control.CreateResponse(memory=memory)


class Models(control_rpc.ModelsServicer):
    """Service in which every model has one vector field."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    async def Get(self, request: control.ModelsGetRequest, context: Any) -> control.ModelsGetResponse:  # noqa: ANN401, N802
        field = control.Field(name="vector", kind=control.FIELD_KIND_VECTOR, shape=self._shape)
        page_bytes = 4 * math.prod(self._shape)
        model = control.Model(name=request.name, digest="sha256:0", fields=[field], capacity=64, page_bytes=page_bytes)
        return control.ModelsGetResponse(model=model)


async def echo_server(shape: tuple[int, ...]) -> str:
    """Start the server on this event loop, and return its address."""
    server = aio.server()
    rpc.add_MemoryDataServicer_to_server(Data(), server)  # type: ignore[abstract]
    control_rpc.add_MemoriesServicer_to_server(Memories(), server)  # type: ignore[abstract]
    control_rpc.add_ModelsServicer_to_server(Models(shape), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _KEPT.append(server)
    return f"127.0.0.1:{port}"


_KEPT: list[aio.Server] = []
"""References to servers: a server ends with its last one"""
