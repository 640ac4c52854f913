"""Operations that read."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
from langgraph.store.base import GetOp, Item, ListNamespacesOp, SearchItem, SearchOp

from attractor import AsyncClient, Found, MemoryNotFound
from attractor_agents._search import CANDIDATES
from attractor_agents.encoders import Floats
from attractor_agents.langgraph.filters import check_filter, encode_filter, is_covered, takes
from attractor_agents.langgraph.items import StoredValue, decode_value, item_id
from attractor_agents.langgraph.namespaces import Namespace, matches, memory_name, namespace_of

HITS_LIMIT = 1000
_ALL = {"value": {"$exists": True}}


class Reader:
    """Reads below a root."""

    def __init__(self, client: AsyncClient, root: str, queries: Mapping[str, Floats]) -> None:
        """`queries` are vectors of those that are searched by meaning."""
        self._client = client
        self._root = root
        self._queries = queries

    async def get(self, op: GetOp) -> Item | None:
        """Return an item; None for none."""
        memory = self._client.memory(memory_name(self._root, op.namespace))
        with suppress(MemoryNotFound):
            for item in await memory.items.get(item_id(op.key)):
                if (stored := decode_value(op.namespace, item)) is not None:
                    await self._refresh([stored], wanted=op.refresh_ttl)
                    return stored.as_item()
        return None

    async def search(self, op: SearchOp) -> list[SearchItem]:
        """Return items below a namespace: by meaning the nearest first, and those without a text last."""
        check_filter(op.filter)
        found: Sequence[tuple[StoredValue, float | None]]
        if (vector := self._queries.get(op.query or "")) is not None:
            found = await self._rank(op, vector)
        else:
            listed = self._take(self._list(op, _ALL), op.offset + op.limit)
            found = [(stored, None) async for stored in listed][op.offset :]
        await self._refresh([stored for stored, _ in found], wanted=op.refresh_ttl)
        return [stored.as_result(score) for stored, score in found]

    async def list_namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        """Return the namespaces that have an item, in order."""
        found: set[Namespace] = set()
        async for info in self._client.memories(f"{self._root}/"):
            namespace = namespace_of(self._root, info.name)
            if all(matches(condition, namespace) for condition in op.match_conditions or ()) and (
                info.patterns or await self._client.memory(info.name).items.count(where=_ALL)
            ):
                found.add(namespace if op.max_depth is None else namespace[: op.max_depth])
        return sorted(found)[op.offset : op.offset + op.limit]

    async def _rank(self, op: SearchOp, vector: Floats) -> list[tuple[StoredValue, float | None]]:
        end = op.offset + op.limit
        k = min(HITS_LIMIT, max(CANDIDATES, end)) if is_covered(op.filter) else HITS_LIMIT
        where = {"indexed": True, **encode_filter(op.filter, "value")}
        name = self._name(op.namespace_prefix)
        found = []
        if op.namespace_prefix:
            with suppress(MemoryNotFound):
                found.append(await self._client.memory(name).search(vector, k=k, filter=where, values=True, by="cue"))
        if await self._has_any_below(name):
            found.append(await self._client.search(f"{name}/", vector, k=k, filter=where, values=True, by="cue"))
        hits = [hit for one in found for hit in self._decode(one, vector, op)]
        ranked: list[tuple[StoredValue, float | None]] = [*sorted(hits, key=lambda hit: -hit[1])[op.offset : end]]
        if len(hits) < end and (missing := op.limit - len(ranked)) > 0:
            plain = self._take(self._list(op, {"indexed": False}), missing)
            ranked += [(stored, None) async for stored in plain]
        return ranked

    def _decode(self, found: Found, vector: Floats, op: SearchOp) -> list[tuple[StoredValue, float]]:
        decoded = []
        for hit in found.hits:
            stored = decode_value(namespace_of(self._root, hit.memory), hit)
            if stored is not None and isinstance(hit.values, np.ndarray) and takes(op.filter, stored.value):
                decoded.append((stored, float(vector @ hit.values)))
        return decoded

    async def _list(self, op: SearchOp, of: Mapping[str, object]) -> AsyncIterator[StoredValue]:
        where = {**of, **encode_filter(op.filter, "value")}
        name = self._name(op.namespace_prefix)
        async for info in self._client.memories(name):
            if info.name != name and not info.name.startswith(f"{name}/"):
                continue
            namespace, seen = namespace_of(self._root, info.name), set[str]()
            with suppress(MemoryNotFound):
                async for item in self._client.memory(info.name).items.list(where=where):
                    stored = decode_value(namespace, item)
                    if stored is not None and stored.key not in seen and takes(op.filter, stored.value):
                        seen.add(stored.key)  # an item may have several patterns
                        yield stored

    def _name(self, prefix: Namespace) -> str:
        return memory_name(self._root, prefix) if prefix else self._root

    async def _has_any_below(self, name: str) -> bool:
        async for _ in self._client.memories(f"{name}/"):
            return True
        return False

    @staticmethod
    async def _take(items: AsyncIterator[StoredValue], count: int) -> AsyncIterator[StoredValue]:
        left = count
        async for item in items:
            if left <= 0:
                return
            left -= 1
            yield item

    async def _refresh(self, found: Sequence[StoredValue], *, wanted: bool) -> None:
        for stored in found:
            if wanted and stored.ttl_minutes is not None:
                memory = self._client.memory(memory_name(self._root, stored.namespace))
                with suppress(MemoryNotFound):
                    await memory.items.touch(item_id(stored.key), ttl_s=60 * stored.ttl_minutes)
