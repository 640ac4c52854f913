"""A real shard with the small models, and the SDK's client of it."""

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from tests.support.shards import load_once
from tests.support.trained_models import write_models

import attractor
from attractor_server.app import run_shard
from attractor_server.energy.model import Model
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology
from attractor_server.storage.backends.sqlite_backend import uri_of


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def models(folder: Path) -> Iterator[Mapping[str, Model]]:
    """What the files hold, by name, to compute answers from by another way."""
    models = write_models(folder)
    with load_once(folder):
        yield models


@pytest.fixture
async def keeping(folder: Path, models: Mapping[str, Model], tmp_path: Path) -> AsyncIterator[attractor.AsyncClient]:
    """A client of a shard whose memories keep their patterns."""
    spec = ShardSpec(models=folder, bank_bytes=1 << 20, warm_up=False, store_uri=uri_of(tmp_path / "data"))
    async with run_shard(spec) as shard:
        await shard.learn(Topology(1, (shard.info,)))
        async with attractor.connect(shard.info.address, timeout_s=20) as connected:
            yield connected


@pytest.fixture
async def client(folder: Path, models: Mapping[str, Model]) -> AsyncIterator[attractor.AsyncClient]:
    async with run_shard(ShardSpec(models=folder, bank_bytes=1 << 20, warm_up=False)) as shard:
        await shard.learn(Topology(1, (shard.info,)))
        async with attractor.connect(shard.info.address, timeout_s=20) as connected:
            yield connected
