"""By whichever way its requests come, a client has its own share, and only a shard speaks for another."""

import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count, islice, repeat

import anyio
import numpy as np
import pytest
from grpc import aio
from tests.support import raw
from tests.support.raw import RawSession, columns, raw_session, tensor
from tests.support.shards import serving

from attractor_proto.names import slot_of
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.engine.engine import Engine
from attractor_server.errors import ServerError
from attractor_server.memories.outcomes import Outcome
from attractor_server.rpc.context import FORWARDED
from attractor_server.rpc.fellows import FELLOW_KEY, ORIGIN_KEY
from attractor_server.scheduling.jobs import Job
from attractor_server.shard.spec import ShardSpec

ONE = np.random.default_rng(2).random((1, 4, 4), dtype=np.float32)
MANY = 40
"""Namespaces of one client"""
SESSIONS = 8
"""Sessions of one client"""
BATCH = 16
SINGLE = 64
"""Queries of a client with one namespace"""


class Gate:
    """Holds the engine until it is opened, and knows of whom it computed how many patterns since, batch by batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened = threading.Event()
        self._served: list[Counter[str]] = []
        self._done = threading.Event()
        run = Engine.run

        def held(engine: Engine, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
            late = self._opened.is_set()
            assert self._opened.wait(20)
            if late:
                self._note(jobs)
            return run(engine, jobs)

        monkeypatch.setattr(Engine, "run", held)

    async def open(self) -> int:
        """Let the engine go, and return how many patterns of the others it computed beside those of the single one."""
        self._opened.set()
        assert await anyio.to_thread.run_sync(self._done.wait, 20)
        return sum(batch["many"] for batch in self._served)

    def _note(self, jobs: Sequence[Job]) -> None:
        if not self._done.is_set():
            self._served.append(Counter())
            for job in jobs:
                self._served[-1][job.memory.name.split("/")[0].strip("0123456789")] += job.size
            if sum(batch["single"] for batch in self._served) >= SINGLE - BATCH:
                self._done.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
async def pair(spec: ShardSpec) -> AsyncIterator[list[RunningShard]]:
    """Two shards without a store, which compute a few patterns at a time and listen on IPv6 as well."""
    async with serving(replace(spec, host="::", batch_patterns=BATCH), 2) as running:
        yield running


def owned_by_second(kind: str, number: int) -> Sequence[str]:
    """Names of so many memories of shard 1, each in a namespace of its own."""
    return list(islice((name for n in count() if slot_of(name := f"{kind}{n}/m") % 2 == 1), number))


def by_ipv6(shard: RunningShard) -> str:
    """The shard's address, at which a client from this machine has another than at the one it tells."""
    return f"[::1]:{shard.info.address.rpartition(':')[2]}"


async def ask_for_all(session: RawSession, names: Sequence[str], queries: int) -> None:
    """Ask so many queries of each memory, in one frame; they wait for the engine when this returns."""
    for handle, name in enumerate(names):
        assert (await session.open(name, handle)).HasField("opened")
    handles = [handle for handle in range(len(names)) for _ in range(queries)]
    asked = columns(range(1000, 1000 + len(handles)), handles, tensor(np.repeat(ONE, len(handles), 0)))
    await session.send(pb.SessionRequest(query=pb.QueryFrame(columns=asked)))
    assert (await session.open(names[0], len(names))).HasField("opened")  # after the frame


@pytest.mark.parametrize(("first", "metadata"), [(True, ()), (False, FORWARDED)], ids=["forwarded", "says so itself"])
async def test_many_namespaces_of_a_session_share_its_part_however_it_comes(
    pair: list[RunningShard], gate: Gate, first: bool, metadata: Sequence[tuple[str, str]]
) -> None:
    asked = pair[0 if first else 1].info.address
    many, single = owned_by_second("many", MANY), owned_by_second("single", 1)
    async with aio.insecure_channel(asked) as channel:
        for name in (*many, *single):
            await raw.create(channel, name)
        async with raw_session(channel, metadata=tuple(metadata)) as crowd, raw_session(channel) as alone:
            await ask_for_all(crowd, many, 25)
            await ask_for_all(alone, single, SINGLE)
            assert await gate.open() < 3 * SINGLE


async def test_who_does_not_know_the_secret_cannot_name_another_client(pair: list[RunningShard], gate: Gate) -> None:
    many, single = owned_by_second("many", SESSIONS), owned_by_second("single", 1)
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(aio.insecure_channel(at)) for at in (pair[1].info.address, by_ipv6(pair[1]))
        ]
        for name in (*many, *single):
            await raw.create(one, name)
        crowd = []
        for number, secret in zip(range(SESSIONS), repeat("1" * 64)):
            named = (FELLOW_KEY, secret), (ORIGIN_KEY, f"ipv4:10.0.0.{number} 1")
            crowd.append(await stack.enter_async_context(raw_session(one, metadata=(*FORWARDED, *named))))
        alone = await stack.enter_async_context(raw_session(other))
        for name, session in zip(many, crowd, strict=True):
            await ask_for_all(session, [name], 125)
        await ask_for_all(alone, single, SINGLE)
        assert await gate.open() < 3 * SINGLE
