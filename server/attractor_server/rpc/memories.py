"""Servicers of the small calls: memories by name, models, topology."""

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from google.protobuf import struct_pb2
from google.protobuf.json_format import ParseDict
from grpc import aio

from attractor_proto.v1 import memories_pb2 as pb
from attractor_proto.v1 import memories_pb2_grpc as rpc
from attractor_server.errors import CannotScale, Draining, InvalidRequest, MemoryNotFound
from attractor_server.fields import Field
from attractor_server.identity.access import Access
from attractor_server.identity.grants import Role
from attractor_server.memories.model_card import ModelCard
from attractor_server.memories.records import Call, NewMemory
from attractor_server.memories.settings import MemorySettings, Metric
from attractor_server.rpc.context import Context, get_access, is_forwarded
from attractor_server.rpc.dedup import read_call
from attractor_server.rpc.listing import list_readable
from attractor_server.rpc.messages import encode_memory, read_settings
from attractor_server.rpc.peers import Peers, owner_answers, unreachable_error
from attractor_server.rpc.validation import check_no_nul
from attractor_server.scheduling.jobs import Job, Origin
from attractor_server.shard.shard import Shard
from attractor_server.sharding.slots import GROUPS

PAGE_SIZE = 100

PAGE_SIZE_LIMIT = 1000

DELETED_TOGETHER = 64
"""Memories with one prefix"""

AnswerType = TypeVar("AnswerType")


class MemoriesServicer(rpc.MemoriesServicer):
    """Memories by name; calls for memories of other shards are passed on."""

    def __init__(self, shard: Shard, peers: Peers) -> None:
        self._shard = shard
        self._peers = peers

    @owner_answers(rpc.MemoriesStub)
    async def Create(self, request: pb.CreateRequest, context: Context) -> pb.CreateResponse:  # noqa: D102, N802
        if self._shard.draining.is_set():
            raise Draining("this shard is going away; try again in a moment")
        model = self._shard.model(request.model)
        given = read_settings(request.settings, capacity=model.capacity)
        settings = replace(await self._find_settings(request.name, model), **given)
        new = NewMemory(name=request.name, model=model.name, model_digest=model.digest, settings=settings)
        record = await self._shard.memories.create(new)
        return pb.CreateResponse(memory=encode_memory(record))

    async def _find_settings(self, name: str, model: ModelCard) -> MemorySettings:
        """Return the settings of the memory of that name; if there is none, those that a new one has by default."""
        try:
            return (await self._shard.memories.get(name)).settings
        except MemoryNotFound:
            metric: Metric = "own" if model.has_metric else "model"
            return MemorySettings(page_patterns=model.capacity, metric=metric, recall=self._shard.recall)

    @owner_answers(rpc.MemoriesStub)
    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:  # noqa: D102, N802
        return pb.GetResponse(memory=encode_memory(await self._shard.memories.get(request.name)))

    @owner_answers(rpc.MemoriesStub)
    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:  # noqa: D102, N802
        name, call = request.name, read_call(request, "Delete", request.name, get_access(context))
        origin = await self._peers.fellows.read_share(context)
        try:
            await self._delete(name, call, origin)
        except MemoryNotFound:
            if call is None or not self._shard.durable:
                raise
            if not await self._shard.memories.ask(lambda store: store.find_call(call)):
                raise
        return pb.DeleteResponse()

    async def DeletePrefix(  # noqa: D102, N802
        self, request: pb.DeletePrefixRequest, context: Context
    ) -> pb.DeletePrefixResponse:
        if not request.prefix:
            raise InvalidRequest.of("prefix", "saw ''; expected at least one character: it is that of all memories")
        check_no_nul(request.prefix, "prefix")
        access = get_access(context)
        read_call(request, "DeletePrefix", request.prefix, access)  # or refuse it before anything is done
        origin = await self._peers.fellows.read_origin(context)
        deleted = await self._delete_own(request, access.share(origin), access)
        if not is_forwarded(context):
            metadata = await self._peers.fellows.make_metadata(origin, access.principal)
            answers = await self._ask_others(
                lambda stub: stub.DeletePrefix(request, timeout=context.time_remaining(), metadata=metadata)
            )
            deleted += sum(answer.deleted for answer in answers)
        return pb.DeletePrefixResponse(deleted=deleted)

    async def _delete_own(self, request: pb.DeletePrefixRequest, origin: Origin, access: Access) -> int:
        """Delete the memories of this shard that have the prefix, and that the caller may delete; return how many."""
        deleted, after = 0, ""
        while True:
            page = await self._shard.memories.list_page(prefix=request.prefix, after=after, size=DELETED_TOGETHER)
            here = [record.name for record in page if self._shard.owner(record.name) is None]
            names = [name for name in here if access.may(name, Role.WRITE)]
            calls = [self._delete(name, read_call(request, "DeletePrefix", name, access), origin) for name in names]
            ends = await asyncio.gather(*calls, return_exceptions=True)
            for error in ends:
                if isinstance(error, BaseException) and not isinstance(error, MemoryNotFound):
                    raise error
            deleted += ends.count(None)
            if len(page) < DELETED_TOGETHER:
                return deleted
            after = page[-1].name

    async def _delete(self, name: str, call: Call | None, origin: Origin) -> None:
        """Delete a memory of this shard.

        Raises:
            MemoryNotFound: there is none.
        """
        memories = self._shard.memories
        record = await memories.remove(name)
        self._shard.check_here(record)
        job = Job.delete(record, call=call, origin=origin)
        job.future.add_done_callback(lambda _: memories.finish_removal(name))
        self._shard.batcher.add(job)  # a caller that goes away now must not leave the place in the bank taken
        await asyncio.shield(job.future)

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:  # noqa: D102, N802
        if request.page_size > PAGE_SIZE_LIMIT:
            raise InvalidRequest.of("page_size", f"saw {request.page_size}; expected at most {PAGE_SIZE_LIMIT}")
        check_no_nul(request.prefix, "prefix")
        check_no_nul(request.page_token, "page_token")
        size = request.page_size or PAGE_SIZE
        access = get_access(context)
        records = await list_readable(
            self._shard.memories, access, prefix=request.prefix, after=request.page_token, size=size + 1
        )
        pages = [[encode_memory(record) for record in records]]
        more = False
        if not (is_forwarded(context) or self._shard.durable):  # else the store has told of all
            fellows = self._peers.fellows
            metadata = await fellows.make_metadata(await fellows.read_origin(context), access.principal)
            answers = await self._ask_others(
                lambda stub: stub.List(request, timeout=context.time_remaining(), metadata=metadata)
            )
            pages += [list(answer.memories) for answer in answers]
            more = any(answer.next_page_token for answer in answers)
        merged = list(heapq.merge(*pages, key=lambda memory: memory.name))
        token = merged[size - 1].name if more or len(merged) > size else ""
        return pb.ListResponse(memories=merged[:size], next_page_token=token)

    async def _ask_others(
        self, ask: "Callable[[rpc.MemoriesAsyncStub], aio.UnaryUnaryCall[Any, AnswerType]]"
    ) -> Sequence[AnswerType]:
        """Return the answers of all other shards to a call that is made to each.

        Raises:
            OwnerUnreachable: one of them does not answer.
        """
        peers = [peer for number, peer in enumerate(self._shard.topology.shards) if number != self._shard.number]
        calls = [ask(rpc.MemoriesStub(self._peers.channel(peer))) for peer in peers]
        answers = []
        try:
            for peer, call in zip(peers, calls, strict=True):
                try:
                    answers.append(await call)
                except aio.AioRpcError as error:
                    raise unreachable_error(peer) from error
        finally:
            for call in calls:
                call.cancel()
        return answers


class ModelsServicer(rpc.ModelsServicer):
    """The models that every shard has loaded."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def List(self, request: pb.ModelsListRequest, context: Context) -> pb.ModelsListResponse:  # noqa: D102, N802
        return pb.ModelsListResponse(models=[_encode_model(model) for _, model in sorted(self._shard.models.items())])

    async def Get(self, request: pb.ModelsGetRequest, context: Context) -> pb.ModelsGetResponse:  # noqa: D102, N802
        return pb.ModelsGetResponse(model=_encode_model(self._shard.model(request.name)))


class ClusterServicer(rpc.ClusterServicer):
    """The owner of each slot, and the number of shards."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def GetTopology(  # noqa: D102, N802
        self, request: pb.GetTopologyRequest, context: Context
    ) -> pb.GetTopologyResponse:
        topology = self._shard.topology
        shards = [pb.Shard(address=shard.address, device=shard.device) for shard in topology.shards]
        return pb.GetTopologyResponse(
            epoch=topology.epoch,
            shards=shards,
            slot_owners=topology.slot_owners.tolist(),
            follows_nodes=topology.follows_nodes,
        )

    async def Scale(self, request: pb.ScaleRequest, context: Context) -> pb.ScaleResponse:  # noqa: D102, N802
        if self._shard.resize is None:
            raise CannotScale(
                "memories of this server are not kept, and would be lost by a move: start it with a store"
            )
        if request.shards > GROUPS:
            raise InvalidRequest.of("shards", f"saw {request.shards}; expected 0 to {GROUPS}")
        await self._shard.resize(request.shards)
        return pb.ScaleResponse()


def _encode_field(field: Field) -> pb.Field:
    kind = pb.FieldKind.Value(f"FIELD_KIND_{field.kind.upper()}")
    audio = None if field.audio is None else pb.AudioFormat(**asdict(field.audio))
    return pb.Field(name=field.name, kind=kind, shape=field.shape, alphabet=field.alphabet, audio=audio)


def _encode_model(model: ModelCard) -> pb.Model:
    return pb.Model(
        name=model.name,
        digest=model.digest,
        fields=[_encode_field(field) for field in model.layout.fields],
        capacity=model.capacity,
        page_bytes=model.page_bytes,
        steps=model.steps,
        erases=model.erases,
        pulls=model.pulls,
        has_metric=model.has_metric,
        training_record=ParseDict(dict(model.record), struct_pb2.Struct()),
    )
