"""Frames of a session for one memory, and the means to hold the engine while they arrive."""

import threading

import anyio
import numpy as np
import pytest
from tests.support import raw
from tests.support.raw import columns, tensor

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.engine.engine import Engine

ONE = np.random.default_rng(1).random((1, 4, 4), dtype=np.float32)


def store(request_id: int, sequence: int, values: "raw.Array" = ONE, handle: int = 1) -> pb.SessionRequest:
    request = columns([request_id], [handle], tensor(values), rows=len(values))
    return pb.SessionRequest(store=pb.StoreFrame(columns=request, sequences=[sequence]))


def query(request_id: int, handle: int = 1, deadline_ms: int = 0) -> pb.SessionRequest:
    request = columns([request_id], [handle], tensor(ONE))
    request.deadline_ms.append(deadline_ms)
    return pb.SessionRequest(query=pb.QueryFrame(columns=request))


class Gate:
    """Holds the engine before a batch, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        run = Engine.run

        def held(engine: Engine, jobs: object) -> object:
            self.reached.set()
            assert self.opened.wait(20)
            return run(engine, jobs)  # type: ignore[arg-type]

        monkeypatch.setattr(Engine, "run", held)

    async def until_reached(self) -> None:
        assert await anyio.to_thread.run_sync(self.reached.wait, 20)


async def waiting(shard: RunningShard, memory: str, count: int) -> None:
    """Until so many jobs of the memory wait, and are wanted."""

    def wanted() -> int:
        return sum(job.memory.name == memory and not job.future.done() for job in shard._shard.batcher.waiting)

    with anyio.fail_after(20):
        while wanted() != count:  # noqa: ASYNC110 - what a socket carries is no event here
            await anyio.sleep(0.005)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)
