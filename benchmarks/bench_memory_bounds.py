"""How much memory does a hostile client make a shard take, and is it given back?

One shard with a store, in a process of its own, with `request_memory_mib` at 256. Each attack comes so many times, one
right after another (`--times`, 3); the resident memory of the shard is looked at every 20 ms meanwhile, and for 10 s
after the last one. Bounds: at rest and the setting during the attack, 1.2 times at rest after it.
"""

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

import anyio
import numpy as np
import psutil
from _report import Result, report
from _shards import Shards
from grpc import aio

from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_copies_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_copies_pb2 as copies
from attractor_proto.v1 import memory_data_pb2 as data
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

MODEL, SHAPE = "glyphs-28", (28, 28)
SETTING_BYTES = 256 << 20
MIB = 1 << 20
AFTER_S, LOOK_S, ATTEMPT_S = 10.0, 0.02, 20.0
OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--only", default="", help="part of an attack's name")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = ShardSpec(
            bank_bytes=64 << 20, request_bytes=SETTING_BYTES, store_uri=uri_of(Path(folder)), warm_up=False
        )
        with Shards(spec, 1) as shards, Watch(shards.pids[0]) as watch:
            anyio.run(prepare, shards.addresses[0])
            anyio.run(run_attack, shards.addresses[0], ATTACKS["small stores that fail"])
            rest, rows = watch.now(), []
            for name in ATTACKS:
                if asked.only in name:
                    rows += measure_attack(shards.addresses[0], name, rest, watch, asked.times)
            report(rows)


def measure_attack(address: str, name: str, rest: int, watch: "Watch", times: int) -> list[Result]:
    """Return the highest resident memory during the attacks, and the lowest after them, against their bounds."""
    watch.peak = watch.now()
    start_s = time.monotonic()
    for _ in range(times):
        anyio.run(run_attack, address, ATTACKS[name])
    took_s, peak = time.monotonic() - start_s, watch.peak
    after, end_s = watch.now(), time.monotonic() + AFTER_S
    while time.monotonic() < end_s and after > 1.2 * rest:
        time.sleep(LOOK_S)
        after = min(after, watch.now())
    seen = " ".join(f"{size_bytes // MIB:,}" for size_bytes in (rest, peak, after))
    print(f"{name}: {times} times in {took_s:.1f} s; MiB at rest, at most and after: {seen}", flush=True)
    bound = (rest + SETTING_BYTES) / MIB
    return [
        Result(name=name, unit="MiB", ours=peak / MIB, peer="at rest and the setting", theirs=bound),
        Result(name=f"after {name}", unit="MiB", ours=after / MIB, peer="1.2 × at rest", theirs=1.2 * rest / MIB),
    ]


class Watch:
    """Highest resident memory of a process, in bytes."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.peak = 0

    def now(self) -> int:
        """Return the present resident memory."""
        resident: int = self._process.memory_info().rss
        return resident

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            self.peak = max(self.peak, self.now())


async def prepare(address: str) -> None:
    """Create the memory that is attacked."""
    async with aio.insecure_channel(address) as channel:
        await memories_pb2_grpc.MemoriesStub(channel).Create(memories_pb2.CreateRequest(name="a", model=MODEL))
        await memory_data_pb2_grpc.MemoryDataStub(channel).Store(data.StoreRequest(memory="a", tensors=[images(4)]))


async def run_attack(address: str, attack: "Attack") -> None:
    """Run one attack over a connection of its own, whatever the answers."""
    async with aio.insecure_channel(address, options=OPTIONS) as channel:
        with anyio.move_on_after(ATTEMPT_S), suppress(aio.AioRpcError, asyncio.InvalidStateError):
            await attack(channel)


def images(count: int) -> data.Tensor:
    values = np.full((count, *SHAPE), 0.5, np.float32)
    return data.Tensor(dtype=data.DTYPE_FLOAT32, shape=values.shape, data=values.tobytes())


async def at_once(count: int, call: Callable[[], Awaitable[object]]) -> None:
    async def quietly() -> None:
        with suppress(aio.AioRpcError):
            await call()

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(quietly)


async def empty_tensors(channel: aio.Channel) -> None:
    store: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/attractor.v1.MemoryData/Store")
    message = b"\x0a\x01a" + b"\x12\x00" * (8 * MIB - 64)
    await at_once(6, lambda: store(message))


async def large_stores(channel: aio.Channel, *, count: int = 12, size_bytes: int = 15 * MIB) -> None:
    store = memory_data_pb2_grpc.MemoryDataStub(channel).Store
    wrong = data.Tensor(dtype=data.DTYPE_UINT8, shape=(3, 3), data=bytes(size_bytes))
    request = data.StoreRequest(memory="a", tensors=[wrong])
    await at_once(count, lambda: store(request))


async def small_stores(channel: aio.Channel) -> None:
    for _ in range(20):
        await large_stores(channel, count=50, size_bytes=3 * 1024)


async def long_hellos(channel: aio.Channel) -> None:
    hello = data.SessionRequest(hello=data.Hello(protocol_version=1, client_id="x", agent="x" * (15 * MIB)))
    async with AsyncExitStack() as stack:
        for _ in range(40):
            call = memory_data_pb2_grpc.MemoryDataStub(channel).Session()
            stack.callback(call.cancel)
            await call.write(hello)
            await call.read()


async def unread_sessions(channel: aio.Channel) -> None:
    """Open sessions that each ask for 12 MB of iterates and read none."""
    columns = data.RequestColumns(request_ids=[9], handles=[1], patterns=[128], tensors=[images(128)])
    frame = data.SessionRequest(query=data.QueryFrame(columns=columns, steps=30, trajectory=True))
    async with AsyncExitStack() as stack:
        for _ in range(100):
            call = memory_data_pb2_grpc.MemoryDataStub(channel).Session()
            stack.callback(call.cancel)
            with suppress(asyncio.InvalidStateError):  # it was refused
                await call.write(data.SessionRequest(hello=data.Hello(protocol_version=1, client_id="x")))
                await call.write(data.SessionRequest(open=data.Open(request_id=1, handle=1, memory="a")))
                await call.write(frame)
        await anyio.sleep(3)


async def weights_without_end(channel: aio.Channel) -> None:
    await import_page(channel, [copies.Piece(weights=bytes(MIB))] * 300)


async def patterns_without_end(channel: aio.Channel) -> None:
    vectors = np.zeros((MIB // (4 * 784), 784), "<f4").tobytes()
    await import_page(
        channel, [copies.Piece(entry=copies.EntryPiece(version=v, written=1, vectors=vectors)) for v in range(1, 300)]
    )


async def import_page(channel: aio.Channel, pieces: list[copies.Piece]) -> None:
    """Import a page that announces endless patterns, and no weights or all of the model's."""
    stub = memory_copies_pb2_grpc.CopiesStub(channel)
    head, page = [one.piece async for one in stub.Export(copies.ExportRequest(name="a"))][:2]
    head.head.memory.version = head.head.memory.patterns = page.page.patterns = 1 << 40
    call = stub.Import()
    try:
        await call.write(copies.ImportRequest(name="b", piece=head))
        await call.write(copies.ImportRequest(piece=page))
        for piece in pieces:
            await call.write(copies.ImportRequest(piece=piece))
        await call.done_writing()
        await call
    finally:
        call.cancel()


Attack = Callable[[aio.Channel], Awaitable[object]]
ATTACKS: dict[str, Attack] = {
    "small stores that fail": small_stores,
    "6 stores of 8 million empty tensors": empty_tensors,
    "12 stores of 15 MiB that fail": large_stores,
    "40 sessions named with 15 MiB": long_hellos,
    "100 sessions that read nothing": unread_sessions,
    "an import of endless weights": weights_without_end,
    "an import of endless patterns": patterns_without_end,
}

if __name__ == "__main__":
    main()
