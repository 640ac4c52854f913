"""Loads by another client that take long: requests whose cost does not show in their number of patterns."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count as numbered
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
import numpy as np
from _processes import Steered
from grpc import aio
from numpy.typing import NDArray

import attractor
from attractor_proto.v1 import memory_copies_pb2, memory_copies_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb

MODEL, VALUES = "binary-128", 128
FRAME = 1024
LONG_S = 600.0
Once: TypeAlias = Callable[[], Awaitable[object]]
Load: TypeAlias = Callable[[attractor.AsyncClient, str, Path, float], Awaitable[Once]]
"""Prepares a load of a size, 1.0 as in docs/design/0020, and returns the function to repeat"""


def signs(count: int, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((count, VALUES))
    return np.sign(drawn).astype(np.float32)


async def fill_memory(
    client: attractor.AsyncClient, pages: int, page_patterns: int, name: str = "beside/m"
) -> attractor.AsyncMemory:
    """Create a memory of so many full pages."""
    memory = await client.create_memory(name, model=MODEL, write="stream", page_patterns=page_patterns)
    patterns = signs(pages * page_patterns)
    for start in range(0, len(patterns), FRAME):
        await memory.store(patterns[start : start + FRAME], timeout_s=LONG_S)
    return memory


async def match(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    memory = await fill_memory(client, round(1563 * size), 32)
    return lambda: memory.query(signs(FRAME), match=True, timeout_s=LONG_S)


async def query(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    memory = await fill_memory(client, round(3000 * size), 1)
    return lambda: memory.query(signs(FRAME), timeout_s=LONG_S)


async def recognize(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    memory = await fill_memory(client, round(3000 * size), 1)
    return lambda: memory.recognize(signs(FRAME), timeout_s=LONG_S)


async def erase(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    memory = await fill_memory(client, round(3000 * size), 1)
    return lambda: memory.erase(signs(FRAME, seed=1), timeout_s=LONG_S)


async def store(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    memory = await fill_memory(client, 1, 32)
    return lambda: memory.store(signs(round(FRAME * size)), timeout_s=LONG_S)


async def delete(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    async def once() -> None:
        memory = await fill_memory(client, round(3000 * size), 1, "beside/deleted")
        await client.delete_memory(memory.name, timeout_s=LONG_S)

    return once


async def snapshots(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    async def once() -> None:
        memory = await client.create_memory("beside/snapshots", model=MODEL)
        await memory.store(signs(1))
        for number in range(round(10_000 * size)):
            await memory.snapshot(str(number), timeout_s=LONG_S)
        await client.delete_memory(memory.name, timeout_s=LONG_S)

    return once


async def pieces(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    """Import one store, with a few patterns in each of many pieces."""
    small = await client.create_memory("beside/small", model=MODEL)
    await small.store(signs(1))
    call = memory_copies_pb2_grpc.CopiesStub(aio.insecure_channel(address))
    first = await call.Export(memory_copies_pb2.ExportRequest(name="beside/small")).read()
    assert isinstance(first, memory_copies_pb2.ExportResponse)
    head = first.piece
    count = round(20_000 * size)
    head.head.memory.patterns = count
    part = memory_copies_pb2.EntryPiece(version=1, written=1, vectors=signs(1).tobytes())

    async def once() -> None:
        sending = call.Import()
        page = memory_copies_pb2.PagePiece(number=0, patterns=count, weights_bytes=0, version=1)
        for piece in (head, memory_copies_pb2.Piece(page=page)):
            await sending.write(memory_copies_pb2.ImportRequest(name="beside/imported", piece=piece))
        for _ in range(count):
            await sending.write(memory_copies_pb2.ImportRequest(piece=memory_copies_pb2.Piece(entry=part)))
        sending.cancel()

    return once


async def cancel(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    frame = pb.SessionRequest(cancel=pb.Cancel(request_ids=[1] * round(16e6 * size)))
    return await _repeat_frame(address, frame)


async def columns(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    asked = pb.RequestColumns(request_ids=[1], handles=[1], patterns=[1] * round(16e6 * size))
    return await _repeat_frame(address, pb.SessionRequest(query=pb.QueryFrame(columns=asked)))


async def _repeat_frame(address: str, frame: pb.SessionRequest) -> Once:
    content = frame.SerializeToString()
    channel = aio.insecure_channel(address, options=[("grpc.max_send_message_length", 1 << 25)])
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    session = stub.Session()
    await session.write(pb.SessionRequest(hello=pb.Hello(protocol_version=1, client_id="beside")))
    await session.read()

    async def once() -> None:
        await session.write(pb.SessionRequest.FromString(content))
        await session.write(pb.SessionRequest(open=pb.Open(request_id=2, handle=1, memory="beside/none")))
        await session.read()

    return once


async def verify(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    """Verify the store, and delete a memory meanwhile."""
    await fill_memory(client, round(1563 * size), 32)
    command = [sys.executable, "-m", "attractor_server.cli", "verify", "--data-dir", str(data)]

    async def once() -> None:
        running = await anyio.to_thread.run_sync(lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL))
        while running.poll() is None:
            memory = await client.create_memory("beside/deleted", model=MODEL)
            await memory.store(signs(4))
            await client.delete_memory(memory.name, timeout_s=LONG_S)

    return once


async def namespaces(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    """Query memories of very many namespaces at the same time."""
    memories = [await client.create_memory(f"beside{n}/m", model="glyphs-28") for n in range(round(200 * size))]
    images = np.random.default_rng(0).random((32, 28, 28), dtype=np.float32)
    for memory in memories:
        await memory.store(images[:4])

    async def once() -> None:
        await asyncio.gather(*(memory.query(images, timeout_s=LONG_S) for memory in memories))

    return once


async def quota(client: attractor.AsyncClient, address: str, data: Path, size: float) -> Once:
    """Store, create and query at a steady pace; what a quota refuses is left at that."""
    memory = await fill_memory(client, 1, 32)
    numbers = numbered()

    async def leave_refused(call: Awaitable[object]) -> None:
        with suppress(attractor.Exhausted, attractor.TimeoutExceeded):
            await call

    async def once() -> None:
        pause = asyncio.create_task(asyncio.sleep(0.1))
        calls = [memory.store(signs(1), timeout_s=1.0) for _ in range(round(20 * size))]
        queries = [memory.query(signs(4), timeout_s=1.0) for _ in range(round(20 * size))]
        made = [client.create_memory(f"beside/{next(numbers)}", model=MODEL) for _ in range(round(4 * size))]
        await asyncio.gather(*map(leave_refused, [*calls, *queries, *made]), pause)

    return once


LOADS: Mapping[str, Load] = {
    "match": match,
    "query": query,
    "recognize": recognize,
    "erase": erase,
    "store": store,
    "delete": delete,
    "snapshots": snapshots,
    "pieces": pieces,
    "cancel": cancel,
    "columns": columns,
    "verify": verify,
    "namespaces": namespaces,
    "quota": quota,
}


class Beside(Steered):
    """Load in a process of its own, of the lowest priority, since a client works on a machine of its own."""

    def __init__(self, name: str, address: str, data: Path, size: float) -> None:
        super().__init__(_run, name, address, data, size)

    def start(self) -> None:
        """Repeat the load from now on."""
        self._pipe.send(None)

    def count_repetitions(self) -> int:
        """Return how often the load was repeated so far."""
        self._pipe.send(None)
        return int(self._pipe.recv())


def _run(name: str, address: str, data: Path, size: float, pipe: Connection) -> None:
    import os  # noqa: PLC0415

    os.nice(19)
    anyio.run(_repeat, name, address, data, size, pipe)


async def _repeat(name: str, address: str, data: Path, size: float, pipe: Connection) -> None:
    async with _client(address) as client:
        once = await LOADS[name](client, address, data, size)
        pipe.send(None)
        await anyio.to_thread.run_sync(pipe.recv)
        done = 0

        async def tell() -> None:
            while True:
                await anyio.to_thread.run_sync(pipe.recv)
                pipe.send(done)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell)
            while True:
                await once()
                done += 1


@asynccontextmanager
async def _client(address: str) -> AsyncIterator[attractor.AsyncClient]:
    async with attractor.connect(address, timeout_s=LONG_S) as client:
        yield client
