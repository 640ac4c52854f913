"""Queries through the SDK."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
from _tenants import MEMORIES, MODEL, PATTERNS, Vectors

import attractor
from attractor_proto.names import slot_of


async def connect_queries(
    stack: AsyncExitStack,
    address: str,
    cues: Vectors,
    *,
    direct: bool = True,
    store: bool = True,
    spread: bool = False,
    tls: attractor.TLS | None = None,
    token: str | None = None,
) -> Callable[[int], Awaitable[object]]:
    """Create memories on the first of two shards, or on both, with patterns if `store`; return a query by number."""
    client = await stack.enter_async_context(attractor.connect(address, direct=direct, tls=tls, token=token))
    names = [name for n in range(3 * MEMORIES) if slot_of(name := f"bench/{n}") % 2 == 0 or spread][:MEMORIES]

    async def make(name: str) -> None:
        memory = await client.create_memory(name, model=MODEL)
        if store:
            await memory.store(cues[:PATTERNS])
        memories.append(memory)

    memories: list[attractor.AsyncMemory] = []
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(make, name)
    return lambda number: memories[number % MEMORIES].query(cues[number % 64])
