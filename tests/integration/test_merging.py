"""Stores of one memory that wait together are one write, and each is answered for itself."""

import anyio
import pytest
from grpc import aio
from tests.support import raw
from tests.support.raw import raw_session
from tests.support.session_frames import Gate, query, store, waiting

from attractor_server.app import RunningShard
from attractor_server.engine.engine import Engine


async def test_stores_that_wait_behind_another_are_written_at_once_and_answered_each(
    shard: RunningShard, channel: aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = Engine.run

    def counted(engine: Engine, jobs: object) -> object:
        sizes.append(len(jobs))  # type: ignore[arg-type]
        return run(engine, jobs)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "run", counted)
    gate = Gate(monkeypatch)
    await raw.create(channel, "a")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        await session.send(store(1, 1))
        await gate.until_reached()
        for number in (2, 3, 4):
            await session.send(store(number, number))
        await session.send(query(5))
        await session.send(store(6, 5))
        await waiting(shard, "a", 5)
        gate.opened.set()
        versions: dict[int, int] = {}
        with anyio.fail_after(raw.WAIT_S):
            while len(versions) < 5:
                frame = await session.receive()
                versions |= dict(zip(frame.stored.request_ids, frame.stored.versions, strict=True))
    assert versions == {1: 1, 2: 2, 3: 3, 4: 4, 6: 5}
    assert sizes == [1, 3, 1, 1]
