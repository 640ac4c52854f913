"""Two models that a fake server has: one of a field, and one of two."""

from collections.abc import Callable
from typing import TypeAlias

from grpc import aio

from attractor_proto.v1 import memories_pb2, memories_pb2_grpc

Context: TypeAlias = "aio.ServicerContext[object, object]"


MODEL = memories_pb2.Model(
    name="tiny",
    digest="sha256:" + 64 * "0",
    fields=[memories_pb2.Field(name="image", kind=memories_pb2.FIELD_KIND_IMAGE, shape=[2, 3])],
    capacity=8,
    page_bytes=64,
    steps=5,
)
PAIR = memories_pb2.Model(
    name="pair",
    digest="sha256:" + 64 * "1",
    fields=[
        memories_pb2.Field(name="key", kind=memories_pb2.FIELD_KIND_VECTOR, shape=[3]),
        memories_pb2.Field(name="value", kind=memories_pb2.FIELD_KIND_VECTOR, shape=[2]),
    ],
    capacity=8,
    page_bytes=64,
    steps=5,
)
MODELS = {model.name: model for model in (MODEL, PAIR)}


class FakeModels(memories_pb2_grpc.ModelsServicer):
    def __init__(self, clock: Callable[[str, Context], None]) -> None:
        """Takes what notes the time that calls still have when they arrive."""
        self._clock = clock

    async def List(self, request: memories_pb2.ModelsListRequest, context: object) -> memories_pb2.ModelsListResponse:
        return memories_pb2.ModelsListResponse(models=MODELS.values())

    async def Get(self, request: memories_pb2.ModelsGetRequest, context: Context) -> memories_pb2.ModelsGetResponse:
        self._clock("GetModel", context)
        return memories_pb2.ModelsGetResponse(model=MODELS[request.name])
