"""Unary Store, Query and Recognize: one memory a call, refused rather than queued without bound."""

import asyncio
from collections.abc import Sequence

from grpc import aio

from attractor_proto.names import STEPS_LIMIT
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc
from attractor_server.engine.work import Job, Operation, Outcome, Recalled, Recognized
from attractor_server.errors import Draining, Expired, InvalidRequest, Violation
from attractor_server.rpc import codec
from attractor_server.rpc.peers import Peers, forward
from attractor_server.rpc.session import Session
from attractor_server.rpc.shard import Shard, applied

Context = aio.ServicerContext


class MemoryDataServicer(rpc.MemoryDataServicer):
    """Stores and queries; what another shard owns is passed on to it."""

    def __init__(self, shard: Shard, peers: Peers, *, patterns_limit: int) -> None:
        """`patterns_limit` bounds the patterns of one frame or call."""
        self._shard = shard
        self._peers = peers
        self._patterns_limit = patterns_limit

    async def Session(self, request_iterator: object, context: Context) -> None:  # noqa: D102, N802
        await Session(self._shard, self._peers, context, patterns_limit=self._patterns_limit).run()

    async def Store(self, request: pb.StoreRequest, context: Context) -> pb.StoreResponse:  # noqa: D102, N802
        if peer := self._shard.owner(request.memory):
            return await forward(rpc.MemoryDataStub(self._peers.channel(peer)).Store, request, context, peer)
        if bool(request.sequence) != bool(request.client_id):
            seen = f"saw client_id {request.client_id!r} and sequence {request.sequence}"
            raise InvalidRequest(Violation("sequence", f"{seen}; expected both or neither"))
        job = self._job(Operation.STORE, request.memory, request.tensors, context)
        first = self._shard.counted(job, request.client_id, request.sequence)
        stored = applied(await (asyncio.shield(first) if first else self._answer(job, context)))
        return pb.StoreResponse(version=stored.version, total=stored.patterns)

    async def Query(self, request: pb.QueryRequest, context: Context) -> pb.QueryResponse:  # noqa: D102, N802
        if peer := self._shard.owner(request.memory):
            return await forward(rpc.MemoryDataStub(self._peers.channel(peer)).Query, request, context, peer)
        check_steps(request.steps, "steps")
        job = self._job(Operation.QUERY, request.memory, request.tensors, context)
        job.steps = request.steps
        recalled = await self._answer(job, context)
        assert isinstance(recalled, Recalled)
        layout = self._shard.model(job.memory.model).layout
        return pb.QueryResponse(tensors=codec.encode(layout, recalled.values), scores=codec.scores([recalled]))

    async def Recognize(self, request: pb.RecognizeRequest, context: Context) -> pb.RecognizeResponse:  # noqa: D102, N802
        if peer := self._shard.owner(request.memory):
            return await forward(rpc.MemoryDataStub(self._peers.channel(peer)).Recognize, request, context, peer)
        job = self._job(Operation.RECOGNIZE, request.memory, request.tensors, context)
        recognized = await self._answer(job, context)
        assert isinstance(recognized, Recognized)
        return pb.RecognizeResponse(energy=recognized.energy.tolist(), delta_energy=recognized.delta_energy.tolist())

    def _job(self, operation: Operation, memory: str, tensors: Sequence[pb.Tensor], context: Context) -> Job:
        record = self._shard.memories.get(memory)
        layout = self._shard.model(record.model).layout
        patterns = codec.decode(layout, tensors, rows=None, where="tensors")
        if not 0 < len(patterns.values) <= self._patterns_limit:
            seen = f"saw {len(patterns.values)} patterns; expected 1 to {self._patterns_limit}"
            raise InvalidRequest.of("tensors[0].shape", seen)
        codec.check_values(layout, patterns, where="tensors")
        job = self._shard.job(operation, record)
        job.values = patterns.values
        job.known = patterns.known if operation is Operation.QUERY else None
        if (remaining_s := context.time_remaining()) is not None:
            job.deadline_s = asyncio.get_running_loop().time() + remaining_s
        return job

    async def _answer(self, job: Job, context: Context) -> Outcome:
        if self._shard.draining.is_set():
            raise Draining("this shard is going away; try again in a moment")
        if (remaining_s := context.time_remaining()) is not None and remaining_s <= 0:
            raise Expired("the deadline had passed when the request arrived; nothing was done")
        self._shard.batcher.offer(job)
        return await job.future


def check_steps(steps: int, where: str) -> None:
    """Refuses more reading steps than a query may take.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if steps > STEPS_LIMIT:
        raise InvalidRequest.of(where, f"saw {steps}; expected 0 (the model's own number) to {STEPS_LIMIT}")
