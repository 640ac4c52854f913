"""Real shards in the test's own process and event loop, everything but Ray; and the fixtures that start them."""

import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import torch
from anyio.abc import TaskStatus
from grpc import aio
from tests.support.tiny_models import write_models

import attractor
import attractor_server
from attractor_proto.names import slot_of
from attractor_server import model_registry
from attractor_server.app import RunningShard, run_shard
from attractor_server.energy.model import Model
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology
from attractor_server.storage.backends.sqlite_backend import uri_of

HERE, THERE = (next(f"m{n}" for n in range(99) if slot_of(f"m{n}") % 2 == shard) for shard in (0, 1))
"""Memories of each of a pair of shards"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of small models, that stay as they are."""
    folder = write_models(tmp_path_factory.mktemp("models"))
    with load_once(folder):
        yield folder


@contextmanager
def load_once(folder: Path) -> Iterator[None]:
    """Have shards in this process share the models of a folder, and those that ship: they would read them each time."""
    plain, shipped = vars(model_registry)["load_model"], Path(attractor_server.__file__).parent / "models"
    loaded = functools.cache(plain)

    def load(path: Path, device: torch.device | str = "cpu") -> Model:
        model: Model = (loaded if path.parent in (folder, shipped) else plain)(path, device)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_registry, "load_model", load)
        yield


@pytest.fixture
def spec(models: Path) -> ShardSpec:
    return ShardSpec(models=models, bank_bytes=1 << 20, warm_up=False)


@asynccontextmanager
async def serving(spec: ShardSpec, shards: int = 1) -> AsyncIterator[list[RunningShard]]:
    """Shards that know each other."""
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(run_shard(replace(spec, number=n))) for n in range(shards)]
        topology = Topology(1, tuple(shard.info for shard in running))
        for shard in running:
            await shard.learn(topology)
        yield running


class Stoppable:
    """A shard in a task of its own, that can end before what was begun after it."""

    def __init__(self, spec: ShardSpec) -> None:
        self._spec = spec
        self._stop, self._stopped = anyio.Event(), anyio.Event()

    async def run(self, *, task_status: TaskStatus[RunningShard]) -> None:
        async with run_shard(self._spec) as running:
            task_status.started(running)
            await self._stop.wait()
        self._stopped.set()

    async def stop(self) -> None:
        self._stop.set()
        await self._stopped.wait()


@asynccontextmanager
async def connected(spec: ShardSpec) -> AsyncIterator[attractor.AsyncClient]:
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        yield client


@pytest.fixture
async def shard(spec: ShardSpec) -> AsyncIterator[RunningShard]:
    async with serving(spec) as (running,):
        yield running


@pytest.fixture
async def pair_of_shards(spec: ShardSpec) -> AsyncIterator[list[RunningShard]]:
    async with serving(spec, 2) as running:
        yield running


@pytest.fixture
async def client(shard: RunningShard) -> AsyncIterator[attractor.AsyncClient]:
    async with attractor.connect(shard.info.address, timeout_s=20) as connected:
        yield connected


@pytest.fixture
async def channel(shard: RunningShard) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(shard.info.address) as connected:
        yield connected


@pytest.fixture
def durable(spec: ShardSpec, store_uri: str) -> ShardSpec:
    return replace(spec, store_uri=store_uri)


@pytest.fixture
def on_disk(spec: ShardSpec, tmp_path: Path) -> ShardSpec:
    """A store whose files can be looked into."""
    return replace(spec, store_uri=uri_of(tmp_path / "data"))
