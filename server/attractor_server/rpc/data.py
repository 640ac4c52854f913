"""Unary Store, Erase, Query and Recognize: one memory a call, refused rather than queued without bound."""

import asyncio
from collections.abc import Sequence

from attractor_proto.names import CLIENT_ID_LIMIT
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc
from attractor_server.errors import Draining, Exhausted, Expired, InvalidRequest, Violation, quoted
from attractor_server.memories.outcomes import Erased, Outcome, OutcomeFuture, Recalled, Recognized, Stored
from attractor_server.rpc import codec
from attractor_server.rpc.context import Context, address_of, is_forwarded
from attractor_server.rpc.dedup import counted, written
from attractor_server.rpc.messages import items_of
from attractor_server.rpc.peers import Peers
from attractor_server.rpc.session import Session
from attractor_server.rpc.validation import check_steps, check_values
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.shard.shard import Shard


class MemoryDataServicer(rpc.MemoryDataServicer):
    """Stores and queries; what another shard owns is passed on to it."""

    def __init__(self, shard: Shard, peers: Peers) -> None:
        self._shard = shard
        self._peers = peers

    async def Session(self, request_iterator: object, context: Context) -> None:  # type: ignore[override] # noqa: D102, N802
        await Session(self._shard, self._peers, context).run()

    async def Store(self, request: pb.StoreRequest, context: Context) -> pb.StoreResponse:  # noqa: D102, N802
        if peer := self._shard.owner(request.memory, field="memory"):
            return await self._peers.forward(
                rpc.MemoryDataStub(self._peers.channel(peer)).Store, request, context, peer
            )
        outcome = await self._write(Operation.STORE, request, context)
        return pb.StoreResponse(version=outcome.version, total=outcome.patterns)

    async def Erase(self, request: pb.EraseRequest, context: Context) -> pb.EraseResponse:  # noqa: D102, N802
        if peer := self._shard.owner(request.memory, field="memory"):
            return await self._peers.forward(
                rpc.MemoryDataStub(self._peers.channel(peer)).Erase, request, context, peer
            )
        outcome = await self._write(Operation.ERASE, request, context)
        return pb.EraseResponse(version=outcome.version, total=outcome.patterns)

    async def Query(self, request: pb.QueryRequest, context: Context) -> pb.QueryResponse:  # noqa: D102, N802
        if peer := self._shard.owner(request.memory, field="memory"):
            return await self._peers.forward(
                rpc.MemoryDataStub(self._peers.channel(peer)).Query, request, context, peer
            )
        check_steps(request.steps, "steps")
        job = await self._job(Operation.QUERY, request.memory, request.tensors, context)
        self._shard.reading(job, steps=request.steps, pull=request.pull_known, match=request.match)
        recalled = await self._answer(job, context)
        assert isinstance(recalled, Recalled)
        layout = job.layout  # of the answer, too, whatever model the memory is of by now
        assert layout is not None
        response = pb.QueryResponse()
        codec.encode(layout, recalled.values, into=response.tensors)
        codec.scores([recalled], into=response.scores)
        codec.matches(layout, [recalled], into=response.matches)
        if (length := response.ByteSize()) > (limit := self._shard.limits.message_bytes):
            raise Exhausted(
                f"the answer has {length} bytes, and at most {limit} may be told at once: query fewer patterns"
            )
        return response

    async def Recognize(self, request: pb.RecognizeRequest, context: Context) -> pb.RecognizeResponse:  # noqa: D102, N802
        if peer := self._shard.owner(request.memory, field="memory"):
            return await self._peers.forward(
                rpc.MemoryDataStub(self._peers.channel(peer)).Recognize, request, context, peer
            )
        job = await self._job(Operation.RECOGNIZE, request.memory, request.tensors, context)
        recognized = await self._answer(job, context)
        assert isinstance(recognized, Recognized)
        return pb.RecognizeResponse(
            energy=recognized.energy.tolist(),
            delta_energy=recognized.delta_energy.tolist(),
            probability=codec.probabilities(recognized),
            pages=codec.pages([recognized]),
        )

    async def _write(
        self, operation: Operation, request: pb.StoreRequest | pb.EraseRequest, context: Context
    ) -> Stored | Erased:
        _check_count(request)
        job = await self._job(operation, request.memory, request.tensors, context)
        if isinstance(request, pb.StoreRequest):
            self._shard.check_kept("items" if request.items else "")
            job.items = items_of(request.items, patterns=job.size, where="items")
        first = counted(job, request.client_id, request.sequence)
        if job.counted:
            job.deadline_s = None  # a repeat may wait for it by now, and its caller have more time
        return written(await (self._settled(first, job) if first else self._answer(job, context)))

    async def _job(self, operation: Operation, memory: str, tensors: Sequence[pb.Tensor], context: Context) -> Job:
        """Everything that can be refused at once is refused here, before the write is counted."""
        record = await self._shard.memories.get(memory)
        layout = self._shard.model(record.model).layout
        rows = codec.rows_of(tensors, where="tensors", patterns_limit=self._shard.limits.frame_patterns)
        partial = not operation.writes
        patterns = codec.decode(layout, tensors, rows=rows, where="tensors", partial=partial)
        check_values(layout, patterns, where="tensors", partial=partial)
        if self._shard.draining.is_set():
            raise Draining("this shard is going away; try again in a moment")
        job = self._shard.job(operation, record, patterns)
        job.origin = None if is_forwarded(context) else (address_of(context), 0)
        job.layout = layout  # by which they were decoded, whatever the engine makes of the memory meanwhile
        if (remaining_s := context.time_remaining()) is not None:
            if remaining_s <= 0:
                raise Expired("the deadline had passed when the request arrived; nothing was done")
            job.deadline_s = asyncio.get_running_loop().time() + remaining_s
        return job

    async def _answer(self, job: Job, context: Context) -> Outcome:
        self._shard.batcher.offer(job)
        return await self._settled(job.future, job)

    @staticmethod
    async def _settled(answer: OutcomeFuture, job: Job) -> Outcome:
        """The outcome; a caller that goes away withdraws its own job, unless that is counted: it will be repeated."""
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if not job.counted:
                job.withdraw()
            raise


def _check_count(request: pb.StoreRequest | pb.EraseRequest) -> None:
    """Refuses a write that is counted by half, or for a client that cannot be.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if bool(request.sequence) != bool(request.client_id):
        seen = f"saw client_id {quoted(request.client_id)} and sequence {request.sequence}"
        raise InvalidRequest(Violation("sequence", f"{seen}; expected both or neither"))
    if len(request.client_id) > CLIENT_ID_LIMIT or "\0" in request.client_id:
        seen = f"saw {quoted(request.client_id)}, {len(request.client_id)} characters"
        raise InvalidRequest.of("client_id", f"{seen}; expected at most {CLIENT_ID_LIMIT}, none of them U+0000")
