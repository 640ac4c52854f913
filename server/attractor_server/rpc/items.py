"""Servicer of items: what memories keep, by id and in lists. It reads the store, never on the engine's thread."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from operator import attrgetter

import numpy as np

from attractor_proto.v1 import memory_items_pb2 as pb
from attractor_proto.v1 import memory_items_pb2_grpc as rpc
from attractor_server.errors import Draining, Exhausted, InvalidRequest, quote
from attractor_server.memories.filters import EVERYTHING
from attractor_server.memories.items import (
    LOOSE_PAGES,
    ByIds,
    ItemChoice,
    ItemPlace,
    ItemQuery,
    KeptItem,
    OnConflict,
)
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Erased, Outcome, TaskDone
from attractor_server.memories.records import Item
from attractor_server.memories.settings import TTL_LIMIT_S
from attractor_server.rpc import codec
from attractor_server.rpc.context import Context, get_access
from attractor_server.rpc.dedup import read_call
from attractor_server.rpc.item_requests import check_ids, read_choice, read_filter, read_on_conflict
from attractor_server.rpc.messages import encode_items, read_items
from attractor_server.rpc.peers import Peers, owner_answers
from attractor_server.scheduling.jobs import Job
from attractor_server.scheduling.tasks import Touch
from attractor_server.shard.shard import Shard

PAGE_SIZE = 100

PAGE_SIZE_LIMIT = 1000

IDS_AT_A_TIME = 64
"""Ids that are looked for, or touched, until others have the store"""

ANSWER_BYTES = 4 << 20
"""Bytes of one answer of a list, about"""

LOOKED_LIMIT = 10_000
"""Items that one answer of a list looks at, about"""


class ItemsServicer(rpc.ItemsServicer):
    """Calls for memories of other shards are passed on."""

    def __init__(self, shard: Shard, peers: Peers) -> None:
        self._shard = shard
        self._peers = peers

    @owner_answers(rpc.ItemsStub)
    async def Get(self, request: pb.ItemsGetRequest, context: Context) -> pb.ItemsGetResponse:  # noqa: D102, N802
        check_ids(request.ids, "ids")
        record = await self._find(request.name, values=request.values)
        found, held_bytes, limit = list[KeptItem](), 0, self._shard.limits.message_bytes
        for part in _split(request.ids):
            found += await self._shard.memories.ask(lambda store: store.find_items(record.id, part))  # noqa: B023
            held_bytes = sum(_measure(one, values=request.values) for one in found)
            if held_bytes > limit:
                raise _too_many_bytes_error(held_bytes, limit)
        found.sort(key=attrgetter("place"))
        response = pb.ItemsGetResponse(items=map(_encode_kept, found))
        if request.values:
            self._encode_values(record, found, response)
        if (length := response.ByteSize()) > limit:
            raise _too_many_bytes_error(length, limit)
        return response

    @owner_answers(rpc.ItemsStub)
    async def List(self, request: pb.ItemsListRequest, context: Context) -> pb.ItemsListResponse:  # noqa: D102, N802
        if request.page_size > PAGE_SIZE_LIMIT:
            raise InvalidRequest.of("page_size", f"saw {request.page_size}; expected at most {PAGE_SIZE_LIMIT}")
        after, size = _read_token(request.page_token), request.page_size or PAGE_SIZE
        filter_ = read_filter(request.filter)
        record = await self._find(request.name, values=request.values)
        found, looked, held_bytes = list[KeptItem](), 0, 0
        while len(found) < size and looked < LOOKED_LIMIT and held_bytes < ANSWER_BYTES:
            query = ItemQuery(filter=filter_, newest_first=request.newest_first, size=min(size - len(found), 64))
            place = after
            part = await self._shard.memories.ask(lambda store: store.list_items(record.id, query, place))  # noqa: B023
            found += part.items
            held_bytes += sum(_measure(one, values=request.values) for one in part.items)
            looked, after = looked + part.looked, part.seen
            if after is None:
                break
        response = pb.ItemsListResponse(items=map(_encode_kept, found))
        if request.values:
            self._encode_values(record, found, response)
        response.next_page_token = "" if after is None else ".".join(map(str, after))
        return response

    @owner_answers(rpc.ItemsStub)
    async def Count(self, request: pb.ItemsCountRequest, context: Context) -> pb.ItemsCountResponse:  # noqa: D102, N802
        filter_ = read_filter(request.filter)
        record = await self._find(request.name)
        if filter_ is EVERYTHING:
            return pb.ItemsCountResponse(count=await self._shard.memories.ask(lambda s: s.count_items(record.id)))
        count, after = 0, None
        query = ItemQuery(filter=filter_, size=PAGE_SIZE_LIMIT)
        while True:
            place: ItemPlace | None = after
            part = await self._shard.memories.ask(lambda store: store.list_items(record.id, query, place))  # noqa: B023
            count, after = count + len(part.items), part.seen
            if after is None:
                return pb.ItemsCountResponse(count=count)

    @owner_answers(rpc.ItemsStub)
    async def Erase(self, request: pb.ItemsEraseRequest, context: Context) -> pb.ItemsEraseResponse:  # noqa: D102, N802
        chosen = read_choice(request)
        outcome = await self._edit(request, "EraseItems", context, chosen)
        return pb.ItemsEraseResponse(version=outcome.version, total=outcome.patterns, erased=outcome.items)

    @owner_answers(rpc.ItemsStub)
    async def Put(self, request: pb.ItemsPutRequest, context: Context) -> pb.ItemsPutResponse:  # noqa: D102, N802
        on_conflict = read_on_conflict(request.on_conflict, "on_conflict")
        ids = [item.id for item in request.items]
        check_ids(ids, "items")
        items = read_items(request.items, patterns=len(ids), where="items")
        chosen = ByIds(frozenset(ids)) if on_conflict == "replace" else None
        outcome = await self._edit(request, "PutItems", context, chosen, items, on_conflict)
        return pb.ItemsPutResponse(version=outcome.version)

    @owner_answers(rpc.ItemsStub)
    async def Touch(self, request: pb.ItemsTouchRequest, context: Context) -> pb.ItemsTouchResponse:  # noqa: D102, N802
        check_ids(request.ids, "ids")
        if not 0 <= request.ttl_s <= TTL_LIMIT_S:
            expected = f"expected seconds, at most {TTL_LIMIT_S:g}, or 0 (they stay)"
            raise InvalidRequest.of("ttl_s", f"saw {request.ttl_s:g}; {expected}")
        record = await self._find(request.name)
        origin, count = await self._peers.fellows.read_share(context), 0
        expires_s = time.time() + request.ttl_s if request.ttl_s else None
        for part in _split(request.ids):
            outcome = await self._queue(Job.perform(record, Touch(part, expires_s), origin=origin))
            assert isinstance(outcome, TaskDone)
            assert isinstance(outcome.made, int)
            count += outcome.made
        return pb.ItemsTouchResponse(count=count)

    async def _edit(  # noqa: PLR0913
        self,
        request: pb.ItemsEraseRequest | pb.ItemsPutRequest,
        kind: str,
        context: Context,
        chosen: ItemChoice | None,
        put: Sequence[Item] = (),
        on_conflict: OnConflict = "append",
    ) -> Erased:
        """Erase and put items in the memory's order of requests."""
        call = read_call(request, kind, request.name, get_access(context))
        record = await self._find(request.name)
        origin = await self._peers.fellows.read_share(context)
        outcome = await self._queue(
            Job.edit_items(record, chosen, put, on_conflict=on_conflict, call=call, origin=origin)
        )
        assert isinstance(outcome, Erased)
        return outcome

    async def _queue(self, job: Job) -> Outcome:
        """Wait for a job, which goes on where the caller goes away."""
        if self._shard.draining.is_set():
            raise Draining("this shard is going away; try again in a moment")
        self._shard.check_here(job.memory)
        self._shard.batcher.add(job)
        return await asyncio.shield(job.future)

    async def _find(self, name: str, *, values: bool = False) -> MemoryRecord:
        """Return the memory of that name; for its values its model has to be served."""
        self._shard.check_kept("items")
        return await self._shard.memories.get(name, any_model=not values)

    def _encode_values(
        self, record: MemoryRecord, found: Sequence[KeptItem], into: pb.ItemsGetResponse | pb.ItemsListResponse
    ) -> None:
        rows = [one.values for one in found if _has_pattern(one)]
        layout = self._shard.model(record.model).layout
        codec.encode(layout, np.stack(rows) if rows else np.zeros((0, layout.size), np.float32), into=into.tensors)


def _split(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield different ids, as many at a time as others may wait for."""
    different = list(dict.fromkeys(ids))
    yield from (different[start : start + IDS_AT_A_TIME] for start in range(0, len(different), IDS_AT_A_TIME))


def _too_many_bytes_error(length: int, limit: int) -> Exhausted:
    return Exhausted(f"the items have {length} bytes, and at most {limit} fit in an answer: ask for fewer ids")


def _read_token(token: str) -> ItemPlace | None:
    """Return the place that a page of a list begins behind, or None for the first page.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if not token:
        return None
    parts = token.split(".")
    numbers = [part.removeprefix("-") for part in parts]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in numbers):
        raise InvalidRequest.of("page_token", f"saw {quote(token)}; expected the next_page_token of another answer")
    place = ItemPlace(*map(int, parts))
    if not 0 <= place.page < 1 << 63:
        raise InvalidRequest.of("page_token", f"saw {quote(token)}; expected the next_page_token of another answer")
    return place


def _has_pattern(kept: KeptItem) -> bool:
    return kept.place.page < LOOSE_PAGES


def _encode_kept(kept: KeptItem) -> pb.KeptItem:
    (item,) = encode_items([kept.item])
    return pb.KeptItem(item=item, has_pattern=_has_pattern(kept))


def _measure(kept: KeptItem, *, values: bool) -> int:
    """Return the bytes of an item in an answer, about."""
    return len(kept.item.payload) + 4 * len(kept.item.id) + 64 + (kept.values.nbytes if values else 0)
