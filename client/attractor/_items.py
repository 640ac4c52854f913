"""Items of a memory, by id and in lists."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeAlias

from attractor._arguments import check_text
from attractor._connection import Connection
from attractor._errors import InvalidRequest
from attractor._filters import Filter, encode_filter
from attractor._payloads import check_ttl, decode_payload, encode_items, encode_on_conflict
from attractor._results import decode_tensor
from attractor._types import EraseResult, KeptItem, ModelInfo, OnConflict, Payload
from attractor_proto.v1 import memories_pb2
from attractor_proto.v1 import memory_items_pb2 as pb

IDS_LIMIT = 1000
"""Ids in one call to the server; more are asked for in several"""


KeptItems: TypeAlias = list[KeptItem]


class _Answer(Protocol):
    @property
    def items(self) -> Sequence[pb.KeptItem]: ...

    @property
    def tensors(self) -> Sequence[Any]: ...


class AsyncItems:
    """Items that a memory keeps, patterns with ids, payloads and times: `memory.items`.

    Every call raises NotKept where the server keeps no patterns, besides the errors that `AsyncMemory` names.
    """

    def __init__(self, connection: Connection, name: str, get_model: Callable[[float], Awaitable[ModelInfo]]) -> None:
        """Use `AsyncMemory.items`."""
        self._connection = connection
        self._name = name
        self._get_model = get_model

    def __repr__(self) -> str:
        return f"<attractor.AsyncItems of {self._name!r}>"

    async def get(self, ids: str | Sequence[str], *, values: bool = False, timeout_s: float | None = None) -> KeptItems:
        """Return the items with these ids, in the order of storing; ids that nothing has are left out.

        With `values` also their patterns. Several patterns may have the same id.
        """
        deadline_s = self._connection.start_deadline(timeout_s)
        names = check_ids(ids)
        found: KeptItems = []
        for start in range(0, len(names), IDS_LIMIT):
            request = pb.ItemsGetRequest(name=self._name, ids=names[start : start + IDS_LIMIT], values=values)
            answer = await self._connection.unary.call(lambda to: to.items.Get, request, deadline_s)
            found += await self._decode(answer, values=values, deadline_s=deadline_s)
        return found

    async def list(
        self,
        *,
        where: Filter | None = None,
        newest_first: bool = False,
        values: bool = False,
        page_size: int = 100,
        timeout_s: float | None = None,
    ) -> AsyncIterator[KeptItem]:
        """Yield the items in the order of storing, or from the newest on; those without a pattern come last.

        `where` names conditions on payloads, as `attractor.Filter` says. They are requested page by page; `timeout_s`
        bounds each page. An item that is kept throughout is yielded; it may come twice if its page changes meanwhile.
        """
        request = pb.ItemsListRequest(
            name=self._name,
            page_size=_check_size(page_size),
            filter=encode_filter(where),
            newest_first=newest_first,
            values=values,
        )
        while True:
            deadline_s = self._connection.start_deadline(timeout_s)
            answer = await self._connection.unary.call(lambda to: to.items.List, request, deadline_s)
            for item in await self._decode(answer, values=values, deadline_s=deadline_s):
                yield item
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def count(self, *, where: Filter | None = None, timeout_s: float | None = None) -> int:
        """Return how many items there are, or how many of them the conditions hold for."""
        deadline_s = self._connection.start_deadline(timeout_s)
        request = pb.ItemsCountRequest(name=self._name, filter=encode_filter(where))
        return (await self._connection.unary.call(lambda to: to.items.Count, request, deadline_s)).count

    async def erase(
        self, ids: str | Sequence[str] | None = None, *, where: Filter | None = None, timeout_s: float | None = None
    ) -> EraseResult:
        """Erase the items with these ids, or those that the conditions hold for, with their patterns; applied once.

        Kept patterns leave their pages as if they had never been stored. Ids that nothing has are no failure.

        Raises:
            NotRetained: a page with such an item does not keep all its patterns.
        """
        deadline_s = self._connection.start_deadline(timeout_s)
        request = pb.ItemsEraseRequest(
            name=self._name,
            ids=[] if ids is None else check_ids(ids),
            filter=encode_filter(where),
            call=self._connection.unary.number_call(),
        )
        answer = await self._connection.unary.call(lambda to: to.items.Erase, request, deadline_s)
        erased = answer.erased if answer.HasField("erased") else None
        return EraseResult(answer.version, answer.total, erased)

    async def touch(self, ids: str | Sequence[str], *, ttl_s: float | None, timeout_s: float | None = None) -> int:
        """Have the items with these ids erased `ttl_s` seconds from now, or never; return how many there are."""
        deadline_s = self._connection.start_deadline(timeout_s)
        request = pb.ItemsTouchRequest(name=self._name, ids=check_ids(ids), ttl_s=check_ttl(ttl_s))
        return (await self._connection.unary.call(lambda to: to.items.Touch, request, deadline_s)).count

    async def put(  # noqa: PLR0913 - each a part of the items
        self,
        ids: str | Sequence[str],
        payloads: Payload | Sequence[Payload] | None = None,
        *,
        texts: str | Sequence[str] | None = None,
        on_conflict: OnConflict = "replace",
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Store items without a pattern, all or none of them, and return the memory's version; applied once.

        They are found and listed as others are, and no query recalls them; a search finds them by the words of their
        texts. One id, payload and text, or lists of them.

        Raises:
            Conflict: the memory has one of the ids, and `on_conflict` is "refuse".
        """
        deadline_s = self._connection.start_deadline(timeout_s)
        single = isinstance(ids, str)
        items = encode_items(ids, payloads, rows=1 if single else len(ids), single=single, ttl_s=ttl_s, texts=texts)
        request = pb.ItemsPutRequest(
            name=self._name,
            items=items,
            on_conflict=encode_on_conflict(on_conflict),
            call=self._connection.unary.number_call(),
        )
        return (await self._connection.unary.call(lambda to: to.items.Put, request, deadline_s)).version

    async def _decode(self, answer: _Answer, *, values: bool, deadline_s: float) -> KeptItems:
        model: ModelInfo | None = await self._get_model(deadline_s) if values else None
        return _decode_items(answer, model)


def check_ids(ids: object) -> list[str]:
    """Return the ids as a list.

    Raises:
        InvalidRequest: they are no texts.
    """
    if isinstance(ids, str):
        ids = [ids]
    if not isinstance(ids, Sequence):
        raise InvalidRequest.of("ids", f"saw {type(ids).__name__}; expected a str, or a list of them")
    return [check_text(f"ids[{at}]", one) for at, one in enumerate(ids)]


def _check_size(page_size: object) -> int:
    if not isinstance(page_size, int) or not 0 < page_size <= 1000:
        raise InvalidRequest.of("page_size", f"saw {page_size!r}; expected 1 to 1000")
    return page_size


def _decode_items(answer: _Answer, model: ModelInfo | None) -> KeptItems:
    rows = sum(one.has_pattern for one in answer.items)
    fields = {tensor.field: decode_tensor(tensor, rows) for tensor in answer.tensors}
    alphabets = {} if model is None else model._alphabets  # noqa: SLF001 - private to the SDK, not to the class
    found: KeptItems = []
    row = 0
    for one in answer.items:
        item = one.item
        own = {name: values[row] for name, values in fields.items()} if one.has_pattern else {}
        row += one.has_pattern
        found.append(
            KeptItem(
                id=item.id,
                payload=decode_payload(item),
                words=item.text,
                has_pattern=one.has_pattern,
                created=decode_time(item, "created"),
                updated=decode_time(item, "updated"),
                expires=decode_time(item, "expires"),
                fields=own,
                alphabets=alphabets,
            )
        )
    return found


def decode_time(item: memories_pb2.Item, name: Literal["created", "updated", "expires"]) -> datetime | None:
    """Return a time of an item; None where there is none."""
    return getattr(item, name).ToDatetime(UTC) if item.HasField(name) else None
