"""Servicer of searches: in one memory, or in all under a prefix whose answers are ranked together."""

import asyncio
from collections.abc import Sequence
from typing import Final

from grpc import StatusCode, aio

from attractor_proto.v1 import memory_items_pb2 as pb
from attractor_proto.v1 import memory_items_pb2_grpc as rpc
from attractor_server.errors import Draining, Exhausted, InvalidRequest, MemoryNotFound, ModelGone, ServerError, quote
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.search import Found, Hit, SearchBy, SearchQuery
from attractor_server.rpc import codec
from attractor_server.rpc.context import Context, get_access, get_facts, is_forwarded
from attractor_server.rpc.errors import ForwardedError
from attractor_server.rpc.item_requests import read_filter
from attractor_server.rpc.listing import list_readable
from attractor_server.rpc.merged_hits import MergedHits, sigmoid
from attractor_server.rpc.messages import check_words, encode_items
from attractor_server.rpc.peers import Peers, owner_answers, unreachable_error
from attractor_server.rpc.validation import check_no_nul, check_values
from attractor_server.rpc.word_search import search_words
from attractor_server.scheduling.jobs import Job, Origin
from attractor_server.shard.shard import Shard

HITS: Final = 10

HITS_LIMIT: Final = 1000

SEARCHED_TOGETHER: Final = 64
"""Memories under a prefix"""

_BY: Final[dict[pb.SearchBy.ValueType, SearchBy]] = {
    pb.SEARCH_BY_UNSPECIFIED: "posterior",
    pb.SEARCH_BY_POSTERIOR: "posterior",
    pb.SEARCH_BY_CUE: "cue",
}


class SearchServicer(rpc.SearchServicer):
    """Searches. Those in memories of other shards are passed on."""

    def __init__(self, shard: Shard, peers: Peers) -> None:
        self._shard = shard
        self._peers = peers

    @owner_answers(rpc.SearchStub)
    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:  # noqa: D102, N802
        asked = read_search(request)
        self._shard.check_kept("search")
        origin = await self._peers.fellows.read_origin(context)
        record = await self._shard.memories.get(request.name)
        get_facts(context).model = record.model
        if request.tensors:
            job = self._make_job(record, request, asked, origin)
            job.deadline_s = _find_deadline_s(context)
            job.trace = get_facts(context).trace
            self._shard.batcher.offer(job)
            found = await self._wait(job)
        else:
            found = await search_words(self._shard.memories, record, asked)
        response = self._encode(record, found, values=request.values)
        check_length(response, self._shard.limits.message_bytes)
        return response

    async def SearchPrefix(  # noqa: D102, N802
        self, request: pb.SearchPrefixRequest, context: Context
    ) -> pb.SearchPrefixResponse:
        asked = read_search(request.search, "search.")
        if request.search.name:
            raise InvalidRequest.of("search.name", f"saw {quote(request.search.name)}; expected none, but a prefix")
        check_no_nul(request.prefix, "prefix")
        self._shard.check_kept("search")
        merged = MergedHits(asked.size)
        misfits = [*await self._search_own(request, asked, context, merged)]
        if not is_forwarded(context):
            misfits += await self._search_others(request, context, merged)
        if misfits and not merged.memories:
            raise misfits[0]
        response = merged.make_response()
        check_length(response, self._shard.limits.message_bytes)
        return pb.SearchPrefixResponse(found=response)

    async def _search_own(
        self, request: pb.SearchPrefixRequest, asked: SearchQuery, context: Context, merged: MergedHits
    ) -> Sequence[ServerError | ForwardedError]:
        """Search the memories of this shard, some at a time; return the errors of those that the cue does not fit."""
        access, origin, after = get_access(context), await self._peers.fellows.read_origin(context), ""
        misfits = list[ServerError | ForwardedError]()
        while True:
            page = await list_readable(
                self._shard.memories, access, prefix=request.prefix, after=after, size=SEARCHED_TOGETHER
            )
            names = [record.name for record in page if self._shard.owner(record.name) is None]
            searches = [self._search_memory(name, request.search, asked, context, origin) for name in names]
            for answer in await asyncio.gather(*searches, return_exceptions=True):
                if isinstance(answer, InvalidRequest):
                    misfits.append(answer)
                elif isinstance(answer, pb.SearchResponse):
                    merged.add(answer)
                elif not isinstance(answer, MemoryNotFound | ModelGone):  # it went away, or cannot be searched
                    raise answer
            if len(page) < SEARCHED_TOGETHER:
                return misfits
            after = page[-1].name

    async def _search_memory(
        self, name: str, request: pb.SearchRequest, asked: SearchQuery, context: Context, origin: Origin | None
    ) -> pb.SearchResponse:
        record = await self._shard.memories.get(name)
        if request.tensors:
            job = self._make_job(record, request, asked, origin, "search.")
            job.deadline_s = _find_deadline_s(context)
            await self._shard.batcher.submit(job)
            found = await self._wait(job)
        else:
            found = await search_words(self._shard.memories, record, asked)
        return self._encode(record, found, values=request.values)

    async def _search_others(
        self, request: pb.SearchPrefixRequest, context: Context, merged: MergedHits
    ) -> Sequence[ServerError | ForwardedError]:
        """Have other shards search their memories; return the errors of those that the cue does not fit."""
        fellows = self._peers.fellows
        metadata = await fellows.make_metadata(await fellows.read_origin(context), get_access(context).principal)
        peers = [peer for number, peer in enumerate(self._shard.topology.shards) if number != self._shard.number]
        calls = [
            rpc.SearchStub(self._peers.channel(peer)).SearchPrefix(
                request, timeout=context.time_remaining(), metadata=metadata
            )
            for peer in peers
        ]
        misfits = list[ServerError | ForwardedError]()
        try:
            for peer, call in zip(peers, calls, strict=True):
                try:
                    merged.add((await call).found)
                except aio.AioRpcError as error:
                    if not (trailing := tuple(error.trailing_metadata() or ())):
                        raise unreachable_error(peer) from None
                    failure = ForwardedError(error.code(), error.details() or "", trailing)
                    if error.code() is not StatusCode.INVALID_ARGUMENT:
                        raise failure from None
                    misfits.append(failure)
        finally:
            for call in calls:
                call.cancel()
        return misfits

    def _make_job(
        self,
        record: MemoryRecord,
        request: pb.SearchRequest,
        asked: SearchQuery,
        origin: Origin | None,
        where: str = "",
    ) -> Job:
        """Make the job of a search in one memory, of whose model its cue has to be.

        Raises:
            InvalidRequest: it is not.
        """
        model = self._shard.model(record.model)
        where = f"{where}tensors"
        rows = codec.count_rows(request.tensors, where=where, patterns_limit=1)
        patterns = codec.decode(model.layout, request.tensors, rows=rows, where=where, partial=True)
        check_values(model.layout, patterns, where=where, partial=True)
        if self._shard.draining.is_set():
            raise Draining("this shard is going away; try again in a moment")
        self._shard.check_here(record)
        return Job.find(
            record, patterns.values, patterns.known, asked, steps=model.steps, layout=model.layout, origin=origin
        )

    @staticmethod
    async def _wait(job: Job) -> Found:
        """Wait for what is found; a caller that goes away withdraws the job."""
        try:
            found = await asyncio.shield(job.future)
        except asyncio.CancelledError:
            job.withdraw()
            raise
        assert isinstance(found, Found)
        return found

    def _encode(self, record: MemoryRecord, found: Found, *, values: bool) -> pb.SearchResponse:
        response = pb.SearchResponse(log_odds=found.log_odds, total=found.total, memories=1)
        if found.log_odds is not None:
            response.known = sigmoid(found.log_odds)
        layout = self._shard.model(record.model).layout
        for hit in found.hits:
            message = response.hits.add()
            _encode_hit(hit, record.name, message)
            if values and len(hit.values):
                codec.encode(layout, hit.values[None], into=message.tensors)
        return response


def read_search(request: pb.SearchRequest, where: str = "") -> SearchQuery:
    """Return what is asked for, besides the cue.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if request.k > HITS_LIMIT:
        raise InvalidRequest.of(f"{where}k", f"saw {request.k}; expected 0 ({HITS}) to {HITS_LIMIT}")
    if (by := _BY.get(request.by)) is None:
        known = "1 (posterior), 2 (cue)"
        raise InvalidRequest.of(f"{where}by", f"saw {request.by}; expected {known}, or 0 (unspecified)")
    if not (request.tensors or request.words):
        raise InvalidRequest.of(f"{where}tensors", "saw neither a cue nor words; expected one of them, or both")
    check_words(request.words, f"{where}words")
    filter_ = read_filter(request.filter, f"{where}filter")
    return SearchQuery(size=request.k or HITS, filter=filter_, by=by, words=request.words)


def _find_deadline_s(context: Context) -> float | None:
    """Return the call's deadline on the event loop's clock, if it has one."""
    deadline_s = None
    if (remaining_s := context.time_remaining()) is not None:
        deadline_s = asyncio.get_running_loop().time() + remaining_s
    return deadline_s


def check_length(response: pb.SearchResponse, limit: int) -> None:
    """Refuse an answer that fits in no message.

    Raises:
        Exhausted: so it is.
    """
    if (length := response.ByteSize()) > limit:
        raise Exhausted(f"the answer has {length} bytes, and at most {limit} may be told at once: ask for fewer hits")


def _encode_hit(hit: Hit, memory: str, into: pb.Hit) -> None:
    (item,) = encode_items([hit.item])
    into.item.CopyFrom(item)
    into.memory, into.page, into.score, into.has_pattern = memory, hit.page, hit.score, bool(len(hit.values))
    if hit.probability is not None:
        into.probability = hit.probability
    if hit.distance is not None:
        into.distance = hit.distance
