"""Servicer of forks, snapshots, exports, imports and rebuilds of memories."""

import asyncio
import logging
import uuid
from contextlib import aclosing

import anyio

from attractor_proto.names import TAG_LIMIT, is_valid_tag
from attractor_proto.v1 import memory_copies_pb2 as pb
from attractor_proto.v1 import memory_copies_pb2_grpc as rpc
from attractor_proto.v1.memories_pb2 import Memory
from attractor_server.errors import Draining, InvalidRequest, ServerError, quote
from attractor_server.memories.memory import MemoryRecord, record_of
from attractor_server.memories.model_card import ModelCard
from attractor_server.memories.names import HIDDEN, check_name, namespace_of
from attractor_server.memories.outcomes import TaskDone
from attractor_server.memories.records import Call, Snapshot, StoredMemory
from attractor_server.rpc.context import Context, get_access, get_account
from attractor_server.rpc.dedup import read_call
from attractor_server.rpc.exports import read_pieces
from attractor_server.rpc.imports import Importing
from attractor_server.rpc.messages import PAGE_CAPACITIES, encode_memory, encode_timestamp, read_metric
from attractor_server.rpc.peers import Peers, owner_answers
from attractor_server.scheduling.jobs import Job
from attractor_server.scheduling.tasks import ForgetSnapshot, Fork, Rebuild, Restore, TakeSnapshot, Task
from attractor_server.shard.shard import Shard

logger = logging.getLogger(__name__)

SNAPSHOTS_LIMIT = 50_000
"""Snapshots in one answer: as many as a message has room for, with the longest tags"""


class CopiesServicer(rpc.CopiesServicer):
    """Calls for memories of other shards are passed on; exports read the store, which all shards share."""

    def __init__(self, shard: Shard, peers: Peers) -> None:
        self._shard = shard
        self._peers = peers
        self._ending: set[asyncio.Future[None]] = set()

    @owner_answers(rpc.CopiesStub)
    async def Fork(self, request: pb.ForkRequest, context: Context) -> pb.ForkResponse:  # noqa: D102, N802
        check_name(request.target, field="target")
        _check_tag(request.tag, or_none=True)
        call = read_call(request, "Fork", request.name, get_access(context))
        record = await self._shard.memories.get(request.name)
        made = (await self._perform(record, Fork(request.target, request.tag), context, call)).made
        assert isinstance(made, StoredMemory)
        return pb.ForkResponse(memory=encode_memory(record_of(made)))

    @owner_answers(rpc.CopiesStub)
    async def TakeSnapshot(  # noqa: D102, N802
        self, request: pb.TakeSnapshotRequest, context: Context
    ) -> pb.TakeSnapshotResponse:
        _check_tag(request.tag, hidden=await self._peers.fellows.is_own_call(context))
        call = read_call(request, "TakeSnapshot", request.name, get_access(context))
        record = await self._shard.memories.get(request.name, any_model=True)
        made = (await self._perform(record, TakeSnapshot(request.tag), context, call)).made
        assert isinstance(made, Snapshot)
        return pb.TakeSnapshotResponse(snapshot=_encode_snapshot(made))

    @owner_answers(rpc.CopiesStub)
    async def ListSnapshots(  # noqa: D102, N802
        self, request: pb.ListSnapshotsRequest, context: Context
    ) -> pb.ListSnapshotsResponse:
        record = await self._shard.memories.get(request.name, any_model=True)
        after, size = _read_page_token(request)
        found = await self._shard.memories.ask(lambda store: store.snapshots(record.id, after=after, size=size + 1))
        token = str(found[size - 1].id) if len(found) > size else ""
        return pb.ListSnapshotsResponse(snapshots=map(_encode_snapshot, found[:size]), next_page_token=token)

    @owner_answers(rpc.CopiesStub)
    async def ForgetSnapshot(  # noqa: D102, N802
        self, request: pb.ForgetSnapshotRequest, context: Context
    ) -> pb.ForgetSnapshotResponse:
        _check_tag(request.tag)
        record = await self._shard.memories.get(request.name, any_model=True)
        call = read_call(request, "ForgetSnapshot", request.name, get_access(context))
        await self._perform(record, ForgetSnapshot(request.tag), context, call)
        return pb.ForgetSnapshotResponse()

    @owner_answers(rpc.CopiesStub)
    async def Restore(self, request: pb.RestoreRequest, context: Context) -> pb.RestoreResponse:  # noqa: D102, N802
        _check_tag(request.tag)
        record = await self._shard.memories.get(request.name, any_model=True)
        call = read_call(request, "Restore", request.name, get_access(context))
        tended = await self._perform(record, Restore(request.tag), context, call)
        return pb.RestoreResponse(memory=_encode_made(tended))

    @owner_answers(rpc.CopiesStub)
    async def Rebuild(self, request: pb.RebuildRequest, context: Context) -> pb.RebuildResponse:  # noqa: D102, N802
        record = await self._shard.memories.get(request.name, any_model=bool(request.model))
        named = record.model.rpartition("@")[0] or record.model  # of a former model: the one of its name
        model = self._shard.model(request.model or (named if named in self._shard.models else record.model))
        patterns = self._choose_page_patterns(request, record, model)
        metric = read_metric(request.metric) or record.settings.metric
        task = Rebuild(model.name, model.digest, patterns, metric)
        call = read_call(request, "Rebuild", request.name, get_access(context))
        tended = await self._perform(record, task, context, call)
        return pb.RebuildResponse(memory=_encode_made(tended))

    async def Export(self, request: pb.ExportRequest, context: Context) -> None:  # type: ignore[override] # noqa: D102, N802
        name, tag, memories = request.name, f"{HIDDEN}{uuid.uuid4().hex}", self._shard.memories
        self._shard.rates.check(namespace_of(name), requests=1)
        taking = asyncio.ensure_future(self._take_hidden(name, tag, context))
        try:
            await asyncio.shield(taking)
            stored = await memories.ask(lambda store: store.load_snapshot(name, tag))
            async with aclosing(read_pieces(memories, name, stored)) as pieces:
                async for piece in pieces:
                    await context.write(pb.ExportResponse(piece=piece))
        finally:
            ending = asyncio.ensure_future(self._forget_hidden(taking, name, tag))
            self._ending.add(ending)  # it goes on where the client has gone away
            ending.add_done_callback(self._ending.discard)
            await asyncio.shield(ending)

    async def _forget_hidden(self, taking: "asyncio.Future[None]", name: str, tag: str) -> None:
        """Forget such a snapshot as soon as it was taken; what fails here is left to `expiry.clear`."""
        try:
            await asyncio.wait((taking,))
            taking.cancelled() or taking.exception()  # which was raised, or concerns nobody any more
            await self._shard.memories.ask(lambda store: store.forget_hidden(name, tag))
        except ServerError as error:
            logger.warning("a snapshot of memory %r that was taken to be read once stays for a while: %s", name, error)

    async def _take_hidden(self, name: str, tag: str, context: Context) -> None:
        """Take a snapshot to be read once."""
        if peer := self._shard.owner(name):
            taken = pb.TakeSnapshotRequest(name=name, tag=tag)
            take = rpc.CopiesStub(self._peers.channel(peer)).TakeSnapshot
            await self._peers.forward(take, taken, context, peer, own=True)
        else:
            await self._perform(await self._shard.memories.get(name, any_model=True), TakeSnapshot(tag), context)

    async def Import(self, request_iterator: object, context: Context) -> pb.ImportResponse:  # noqa: D102, N802
        importing = Importing(self._shard, get_account(context), get_access(context))
        try:
            while isinstance(request := await context.read(), pb.ImportRequest):
                await importing.take(request)
            return pb.ImportResponse(memory=encode_memory(record_of(await importing.end())))
        finally:
            with anyio.CancelScope(shield=True):
                await importing.abandon()

    async def _perform(self, record: MemoryRecord, task: Task, context: Context, call: Call | None = None) -> TaskDone:
        """Carry out a task in the memory's order of requests; it goes on where the caller goes away."""
        origin = await self._peers.fellows.read_share(context)
        if self._shard.draining.is_set():
            raise Draining("this shard is going away; try again in a moment")
        self._shard.check_here(record)
        job = Job.perform(record, task, call=call, origin=origin)
        self._shard.batcher.add(job)
        outcome = await asyncio.shield(job.future)
        assert isinstance(outcome, TaskDone)
        return outcome

    def _choose_page_patterns(self, request: pb.RebuildRequest, record: MemoryRecord, model: ModelCard) -> int:
        """Return the number asked for; else that of before, or the model's capacity where that was the old one's."""
        limit = PAGE_CAPACITIES * model.capacity
        if request.page_patterns > limit:
            expected = f"expected 1 to {limit}, {PAGE_CAPACITIES} times the model's capacity, or 0 (as it was)"
            raise InvalidRequest.of("page_patterns", f"saw {request.page_patterns}; {expected}")
        before = record.settings.page_patterns
        old = self._shard.models.get(record.model)
        if old is not None and before == old.capacity:
            before = model.capacity
        return request.page_patterns or min(before, limit)


def _read_page_token(request: pb.ListSnapshotsRequest) -> tuple[int, int]:
    """Return the number of the snapshot that a page begins behind, and how many it has at most.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if request.page_size > SNAPSHOTS_LIMIT:
        raise InvalidRequest.of("page_size", f"saw {request.page_size}; expected at most {SNAPSHOTS_LIMIT}")
    token = request.page_token or "0"
    if not (token.isascii() and token.isdigit() and int(token) < 1 << 63):
        raise InvalidRequest.of("page_token", f"saw {quote(token)}; expected the next_page_token of another answer")
    return int(token), request.page_size or SNAPSHOTS_LIMIT


def _check_tag(tag: str, *, or_none: bool = False, hidden: bool = False) -> None:
    """Refuse an invalid tag; those of `hidden` snapshots are for shards among themselves.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if (or_none and not tag) or (is_valid_tag(tag) and (hidden or not tag.startswith(HIDDEN))):
        return
    raise InvalidRequest.of(
        "tag",
        f"saw {quote(tag)}; expected 1 to {TAG_LIMIT} letters, digits, '.', '_', '-', the first of them no '.'",
    )


def _encode_made(tended: TaskDone) -> Memory:
    """Return the memory as the task made it, whatever came after that."""
    assert isinstance(tended.made, StoredMemory)
    return encode_memory(record_of(tended.made))


def _encode_snapshot(snapshot: Snapshot) -> pb.Snapshot:
    created = encode_timestamp(snapshot.created_s)
    return pb.Snapshot(tag=snapshot.tag, version=snapshot.version, patterns=snapshot.patterns, created=created)
