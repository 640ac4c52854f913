"""Operations that write."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

import numpy as np
from langgraph.store.base import PutOp

from attractor import AsyncClient, AsyncMemory, MemoryNotFound
from attractor_agents.encoders import Floats
from attractor_agents.langgraph.items import encode_value, item_id
from attractor_agents.langgraph.namespaces import Namespace, memory_name

MODEL = "embedding-384"
VectorsOf: TypeAlias = Callable[[PutOp], Sequence[Floats]]


async def write(client: AsyncClient, root: str, ops: Sequence[PutOp], vectors_of: VectorsOf) -> None:
    """Do puts and deletions, of which the last for a key counts, a memory after the other."""
    spaces: dict[Namespace, list[PutOp]] = defaultdict(list)
    for op in {(op.namespace, op.key): op for op in ops}.values():
        spaces[op.namespace].append(op)
    for namespace, given in spaces.items():
        name = memory_name(root, namespace)
        await _erase(client, name, [item_id(op.key) for op in given if op.value is None])
        alike: dict[tuple[float | None, bool], list[PutOp]] = defaultdict(list)
        for op in given:
            if op.value is not None:
                alike[op.ttl, bool(vectors_of(op))].append(op)
        for group in alike.values():
            await _put(client, name, group, vectors_of)


async def _erase(client: AsyncClient, name: str, ids: Sequence[str]) -> None:
    if ids:
        with suppress(MemoryNotFound):
            await client.memory(name).items.erase(ids)


async def _put(client: AsyncClient, name: str, ops: Sequence[PutOp], vectors_of: VectorsOf) -> None:
    """Put values that all have a text to be searched by, or all none, and the same time to live."""
    try:
        await _store(client.memory(name), ops, vectors_of)
    except MemoryNotFound:
        await _store(await client.create_memory(name, model=MODEL), ops, vectors_of)


async def _store(memory: AsyncMemory, ops: Sequence[PutOp], vectors_of: VectorsOf) -> None:
    ttl_s = None if ops[0].ttl is None else 60 * ops[0].ttl
    rows = [(op, vector) for op in ops for vector in vectors_of(op)]
    if not rows:
        payloads = [encode_value(op, indexed=False) for op in ops]
        await memory.items.put([item_id(op.key) for op in ops], payloads, ttl_s=ttl_s)
        return
    await memory.store(
        np.stack([vector for _, vector in rows]),
        ids=[item_id(op.key) for op, _ in rows],
        payloads=[encode_value(op, indexed=True) for op, _ in rows],
        on_conflict="replace",
        ttl_s=ttl_s,
    )
