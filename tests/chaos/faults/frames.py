"""Frames that come twice, in another order, in part or not at all, and clients that are killed in mid-stream."""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import numpy as np
from anyio.abc import SocketStream
from grpc import aio
from tests.chaos.ledger import patterns
from tests.chaos.load import PAGE
from tests.chaos.tally import Run, fault, pause
from tests.chaos.verifying import TOLERANCE, undisturbed
from tests.support import raw
from tests.support.forkserver import CONTEXT

import attractor
from attractor_proto.v1 import memories_pb2
from attractor_proto.v1 import memory_data_pb2 as pb

STORES = 6
HANDLE = 1
LIMIT_S = 20
LOST = (aio.AioRpcError, asyncio.InvalidStateError, AssertionError, TimeoutError)
"""What a stream says whose connection has ended"""
Answers: TypeAlias = dict[int, tuple[int, int]]
"""Version and patterns that each sequence was told"""


@dataclass
class Episode:
    """One memory, one client, and a few numbered stores."""

    memory: str
    random: random.Random
    told: Answers = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    doubled: int = 0
    lost: int = 0

    @property
    def hello(self) -> pb.Hello:
        return pb.Hello(protocol_version=1, client_id=f"client of {self.memory}")

    def frame(self, *sequences: int) -> pb.SessionRequest:
        """Stores of one pattern each."""
        tensor = raw.tensor(np.concatenate([patterns(self.memory, number) for number in sequences]))
        ids = [self.random.getrandbits(50) for _ in sequences]
        columns = raw.columns(ids, [HANDLE] * len(ids), tensor)
        return pb.SessionRequest(store=pb.StoreFrame(columns=columns, sequences=sequences))

    def note(self, sequence: int, answer: tuple[int, int]) -> None:
        """A store has one answer, whenever it is told."""
        first = self.told.setdefault(sequence, answer)
        if first != answer:
            self.doubled += 1
            self.problems.append(f"{self.memory}: store {sequence} was told {first}, then {answer}")


Disturb: TypeAlias = Callable[[Episode, str], Coroutine[Any, Any, None]]


@asynccontextmanager
async def session(episode: Episode, address: str) -> AsyncIterator[raw.RawSession]:
    async with aio.insecure_channel(address) as channel, raw.raw_session(channel, hello=episode.hello) as opened:
        await opened.open(episode.memory, HANDLE)
        yield opened


async def told(episode: Episode, opened: raw.RawSession, frames: Sequence[pb.SessionRequest]) -> None:
    """Sends frames, and notes the answers to all."""
    asked = {
        one: sequence
        for frame in frames
        for one, sequence in zip(frame.store.columns.request_ids, frame.store.sequences, strict=True)
    }
    for frame in frames:
        await opened.send(frame)
    while asked:
        answer = await opened.receive()
        if answer.WhichOneof("frame") != "stored":
            episode.problems.append(f"{episode.memory}: a store was told {answer}")
            return
        stored = answer.stored
        for one, *found in zip(stored.request_ids, stored.versions, stored.totals, strict=True):
            episode.note(asked.pop(one), (found[0], found[1]))


async def duplicated(episode: Episode, address: str) -> None:
    frames = [episode.frame(number) for number in range(1, STORES + 1) for _ in range(episode.random.randint(1, 3))]
    async with session(episode, address) as opened:
        await told(episode, opened, frames)


async def reordered(episode: Episode, address: str) -> None:
    frames = [episode.frame(number) for number in range(1, STORES + 1)]
    episode.random.shuffle(frames)
    async with session(episode, address) as opened:
        await told(episode, opened, frames)


async def cancelled(episode: Episode, address: str) -> None:
    """Requests are taken back, and then the whole stream is."""
    async with session(episode, address) as opened:
        for number in range(1, STORES):
            frame = episode.frame(number)
            await opened.send(frame)
            if episode.random.random() < 0.5:
                await opened.send(pb.SessionRequest(cancel=pb.Cancel(request_ids=frame.store.columns.request_ids)))
        await anyio.sleep(episode.random.uniform(0, 0.01))


async def half_sent(episode: Episode, address: str) -> None:
    """The connection ends within a frame."""
    async with _cut(address, after=episode.random.randint(200, 2500)) as there:
        with suppress(*LOST), anyio.move_on_after(2):
            async with session(episode, there) as opened:
                await told(episode, opened, [episode.frame(number) for number in range(1, STORES + 1)])


@asynccontextmanager
async def _cut(address: str, *, after: int) -> AsyncIterator[str]:
    """A way to the address that passes on so many bytes, and then closes."""

    async def serve(near: SocketStream) -> None:
        left = after
        async with near, await anyio.connect_tcp(host, int(port)) as far, anyio.create_task_group() as tasks:
            tasks.start_soon(_pass, far, near)
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while left > 0:
                    part = (await near.receive())[:left]
                    left -= len(part)
                    await far.send(part)
            tasks.cancel_scope.cancel()

    host, _, port = address.rpartition(":")
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


async def _pass(source: SocketStream, to: SocketStream) -> None:
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for part in source:
            await to.send(part)


def client_killed(episode: Episode, address: str, folder: Path) -> None:
    """A client's process is killed while it streams; what it was told by then it has written down."""
    path = folder / "told"
    path.unlink(missing_ok=True)
    process = CONTEXT.Process(target=_stream, args=(episode.memory, address, path), daemon=True)
    process.start()
    end_s = time.monotonic() + LIMIT_S
    while not path.exists() and time.monotonic() < end_s:
        pause(0.005)
    pause(episode.random.uniform(0, 0.03))
    process.kill()
    process.join(LIMIT_S)
    for line in path.read_text().splitlines() if path.exists() else ():
        sequence, version, total = json.loads(line)
        episode.note(sequence, (version, total))


def _stream(memory: str, address: str, path: Path) -> None:
    anyio.run(partial(_streaming, memory, address, path))


async def _streaming(memory: str, address: str, path: Path) -> None:
    episode = Episode(memory, random.Random(0))
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    async with session(episode, address) as opened:
        for number in range(1, STORES + 1):
            await told(episode, opened, [episode.frame(number)])
            os.write(file, json.dumps([number, *episode.told[number]]).encode() + b"\n")


DISTURBED: Mapping[str, Disturb] = {
    "duplicated": duplicated,
    "reordered": reordered,
    "cancelled": cancelled,
    "half-sent": half_sent,
}
KILLED_EVERY = 5


@fault("frames", times=1000, short=15)
def frames(run: Run) -> None:
    """Frames duplicated, reordered, half-sent or cancelled; every fifth time the client is killed in mid-stream."""
    kinds = list(DISTURBED.values())
    with run.shard() as shard:
        for number in range(run.times):
            episode = Episode(f"frames/{number}", random.Random(run.random.random()))
            run.do(_create(episode.memory, shard.address))
            if number % KILLED_EVERY == KILLED_EVERY - 1:
                client_killed(episode, shard.address, run.folder)
            else:
                run.do(kinds[number % KILLED_EVERY](episode, shard.address))
            run.do(_settle(run, episode, shard.address))
            run.tally.times += 1
        shard.stop()


async def _create(memory: str, address: str) -> None:
    async with aio.insecure_channel(address) as channel:
        await raw.create(channel, memory, settings=memories_pb2.MemorySettings(page_patterns=PAGE))


async def _settle(run: Run, episode: Episode, address: str) -> None:
    """The client comes back and repeats everything: then each store is there, once."""
    before = len(episode.told)
    async with session(episode, address) as opened:
        await told(episode, opened, [episode.frame(number) for number in range(1, STORES + 1)])
    async with aio.insecure_channel(address) as channel:
        version, total = await raw.state(channel, episode.memory)
    run.tally.stores += STORES
    run.tally.lost += max(0, STORES - total)
    run.tally.doubled += max(0, total - STORES, version - STORES) + episode.doubled
    if (version, total) != (STORES, STORES) or sorted(episode.told.values()) != [(n, n) for n in range(1, STORES + 1)]:
        run.tally.blame(f"{episode.memory}: {version=} {total=}, {before} told, then {episode.told}")
    for problem in episode.problems:
        run.tally.blame(problem)
    await _compare(run, episode, address)


async def _compare(run: Run, episode: Episode, address: str) -> None:
    order = sorted(episode.told, key=lambda sequence: episode.told[sequence])
    given = np.concatenate([patterns(episode.memory, sequence) for sequence in order])
    async with undisturbed(run.models) as twin, attractor.connect(address) as client:
        memory = await twin.create_memory(episode.memory, model="tiny", page_patterns=PAGE)
        for one in given:
            await memory.store(one)
        expected = await memory.query(given)
        seen = await client.memory(episode.memory).query(given)
    if not np.allclose(seen.pattern, expected.pattern, rtol=TOLERANCE, atol=TOLERANCE):
        run.tally.wrong += 1
        run.tally.blame(f"{episode.memory}: it recalls otherwise than a server that met no fault")
