"""Unary Store, Erase, Query and Recognize: one memory a call, refused rather than queued without bound."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from attractor_proto.names import CLIENT_ID_LIMIT
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc
from attractor_server.errors import Draining, Exhausted, Expired, InvalidRequest, Violation, quote
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.model_card import ModelCard
from attractor_server.memories.names import namespace_of
from attractor_server.memories.outcomes import Erased, Outcome, OutcomeFuture, Recalled, Recognized, Stored
from attractor_server.recorder import RequestTrace
from attractor_server.rpc import codec
from attractor_server.rpc.codec import Patterns
from attractor_server.rpc.context import Context, get_access, get_facts
from attractor_server.rpc.dedup import number_job
from attractor_server.rpc.fellows import draw_session
from attractor_server.rpc.item_requests import read_on_conflict, read_unless_similar
from attractor_server.rpc.messages import read_items, read_kept
from attractor_server.rpc.operations import encode_existing
from attractor_server.rpc.peers import Peers, owner_answers
from attractor_server.rpc.session import Session
from attractor_server.rpc.validation import check_matches, check_steps, check_values
from attractor_server.scheduling.jobs import Job, Operation, Origin
from attractor_server.shard.shard import Shard


@dataclass(frozen=True, slots=True)
class _UnaryRequest:
    """A request that can be served, decoded by the model that its memory is of now."""

    memory: MemoryRecord
    model: ModelCard
    patterns: Patterns
    deadline_s: float | None
    origin: Origin | None
    trace: RequestTrace | None


class MemoryDataServicer(rpc.MemoryDataServicer):
    """Stores, erases, queries and recognitions; calls for memories of other shards are passed on."""

    def __init__(self, shard: Shard, peers: Peers) -> None:
        self._shard = shard
        self._peers = peers

    async def Session(self, request_iterator: object, context: Context) -> None:  # type: ignore[override] # noqa: D102, N802
        origin = await self._peers.fellows.read_origin(context, session=draw_session())
        await Session(self._shard, self._peers, context, origin).run()

    @owner_answers(rpc.MemoryDataStub, field="memory")
    async def Store(self, request: pb.StoreRequest, context: Context) -> pb.StoreResponse:  # noqa: D102, N802
        _check_number(request)
        asked = await self._read(Operation.STORE, request.memory, request.tensors, context)
        on_conflict = read_on_conflict(request.on_conflict, "on_conflict")
        similar = read_unless_similar(request.unless_similar, on_conflict, asked.model, "unless_similar")
        needs = (request.items, "items"), (on_conflict != "append", "on_conflict"), (similar, "unless_similar")
        self._shard.check_kept(next((name for needed, name in needs if needed), ""))
        values = asked.patterns.values
        items = read_items(request.items, patterns=len(values), where="items")
        job = Job.store(
            asked.memory,
            values,
            items,
            on_conflict=on_conflict,
            unless_similar=similar,
            layout=asked.model.layout,
            deadline_s=_write_deadline_s(request, asked),
            origin=asked.origin,
        )
        job.trace = asked.trace
        outcome = await self._write(job, request, context)
        existing = encode_existing(outcome) if isinstance(outcome, Stored) and outcome.existing else None
        return pb.StoreResponse(version=outcome.version, total=outcome.patterns, existing=existing)

    @owner_answers(rpc.MemoryDataStub, field="memory")
    async def Erase(self, request: pb.EraseRequest, context: Context) -> pb.EraseResponse:  # noqa: D102, N802
        _check_number(request)
        asked = await self._read(Operation.ERASE, request.memory, request.tensors, context)
        job = Job.erase(
            asked.memory,
            asked.patterns.values,
            layout=asked.model.layout,
            deadline_s=_write_deadline_s(request, asked),
            origin=asked.origin,
        )
        job.trace = asked.trace
        outcome = await self._write(job, request, context)
        return pb.EraseResponse(version=outcome.version, total=outcome.patterns)

    @owner_answers(rpc.MemoryDataStub, field="memory")
    async def Query(self, request: pb.QueryRequest, context: Context) -> pb.QueryResponse:  # noqa: D102, N802
        check_steps(request.steps, "steps")
        matches = check_matches(request.matches, match=request.match, where="matches")
        kept = read_kept(request.recall, "recall")
        asked = await self._read(Operation.QUERY, request.memory, request.tensors, context)
        self._shard.check(Operation.QUERY, asked.model, pull=request.pull_known)
        self._shard.check_kept("match" if request.match else "")
        layout = asked.model.layout  # of the answer, too, whatever model the memory is of by then
        job = Job.query(
            asked.memory,
            asked.patterns.values,
            asked.patterns.known,
            steps=request.steps or asked.model.steps,
            own_steps=not request.steps,
            pull=request.pull_known,
            matches=matches,
            kept=kept,
            layout=layout,
            deadline_s=asked.deadline_s,
            origin=asked.origin,
        )
        job.trace = asked.trace
        recalled = await self._answer(job)
        assert isinstance(recalled, Recalled)
        response = pb.QueryResponse()
        codec.encode(layout, recalled.values, into=response.tensors)
        codec.encode_scores([recalled], into=response.scores)
        codec.encode_matches(layout, [recalled], into=response.matches)
        if (length := response.ByteSize()) > (limit := self._shard.limits.message_bytes):
            raise Exhausted(
                f"the answer has {length} bytes, and at most {limit} may be told at once: query fewer patterns"
            )
        return response

    @owner_answers(rpc.MemoryDataStub, field="memory")
    async def Recognize(self, request: pb.RecognizeRequest, context: Context) -> pb.RecognizeResponse:  # noqa: D102, N802
        kept = read_kept(request.recall, "recall")
        asked = await self._read(Operation.RECOGNIZE, request.memory, request.tensors, context)
        job = Job.recognize(
            asked.memory,
            asked.patterns.values,
            kept=kept,
            layout=asked.model.layout,
            deadline_s=asked.deadline_s,
            origin=asked.origin,
        )
        job.trace = asked.trace
        recognized = await self._answer(job)
        assert isinstance(recognized, Recognized)
        return pb.RecognizeResponse(
            energy=recognized.energy.tolist(),
            delta_energy=recognized.delta_energy.tolist(),
            probability=codec.encode_probabilities(recognized),
            pages=codec.encode_pages([recognized]),
        )

    async def _write(self, job: Job, request: pb.StoreRequest | pb.EraseRequest, context: Context) -> Stored | Erased:
        first = number_job(job, get_access(context), request.client_id, request.sequence)
        outcome = await (self._wait(first, job) if first else self._answer(job))
        assert isinstance(outcome, Stored | Erased)
        return outcome

    async def _read(
        self, operation: Operation, memory: str, tensors: Sequence[pb.Tensor], context: Context
    ) -> _UnaryRequest:
        """Decode a request and refuse here whatever can be refused at once, before a write is numbered."""
        origin = await self._peers.fellows.read_share(context)
        record = await self._shard.memories.get(memory)
        model = self._shard.model(record.model)
        get_facts(context).model = model.name
        rows = codec.count_rows(tensors, where="tensors", patterns_limit=self._shard.limits.frame_patterns)
        partial = not operation.writes
        patterns = codec.decode(model.layout, tensors, rows=rows, where="tensors", partial=partial)
        check_values(model.layout, patterns, where="tensors", partial=partial)
        if self._shard.draining.is_set():
            raise Draining("this shard is going away; try again in a moment")
        self._shard.check_here(record)
        self._shard.check(operation, model, pull=False)
        deadline_s = None
        if (remaining_s := context.time_remaining()) is not None:
            if remaining_s <= 0:
                raise Expired("the deadline had passed when the request arrived; nothing was done")
            deadline_s = asyncio.get_running_loop().time() + remaining_s
        return _UnaryRequest(record, model, patterns, deadline_s, origin, get_facts(context).trace)

    async def _answer(self, job: Job) -> Outcome:
        try:
            self._shard.check_quota(job)
            self._shard.rates.check(namespace_of(job.memory.name), patterns=job.size)
        except Exhausted as error:
            job.fail(error)
            raise
        self._shard.batcher.offer(job)
        return await self._wait(job.future, job)

    @staticmethod
    async def _wait(answer: OutcomeFuture, job: Job) -> Outcome:
        """Wait for the outcome; a caller that goes away withdraws its job, unless that is numbered: it comes again."""
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if not job.numbered:
                job.withdraw()
            raise


def _write_deadline_s(request: pb.StoreRequest | pb.EraseRequest, asked: _UnaryRequest) -> float | None:
    """Return no deadline for what is numbered: a repeat may wait for it by then, and its caller have more time."""
    return None if request.sequence else asked.deadline_s


def _check_number(request: pb.StoreRequest | pb.EraseRequest) -> None:
    """Refuse a write of which exactly one of client_id and sequence is set, or whose client_id is invalid.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if bool(request.sequence) != bool(request.client_id):
        seen = f"saw client_id {quote(request.client_id)} and sequence {request.sequence}"
        raise InvalidRequest(Violation("sequence", f"{seen}; expected both or neither"))
    if len(request.client_id) > CLIENT_ID_LIMIT or "\0" in request.client_id:
        seen = f"saw {quote(request.client_id)}, {len(request.client_id)} characters"
        raise InvalidRequest.of("client_id", f"{seen}; expected at most {CLIENT_ID_LIMIT}, none of them U+0000")
