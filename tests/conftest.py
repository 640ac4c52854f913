"""What holds for every test: asyncio alone, and no blocking call on an event loop."""

import inspect
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # whose handlers can crash a child before it is another program
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for one another cost more than tensors so small gain

from grpc import aio
from tests.support.postgresql import PROGRAMS, PostgresServer, running
from tests.support.stores import new_store

LONG = (
    "chaos/test_chaos.py",
    "cluster/test_joining.py",
    "cluster/test_serve.py",
    "cluster/test_moving.py",
    "integration/test_background_compile.py",
    "training/test_workers.py",
    "integration/test_readme_and_demo.py",
    "cluster/test_standin.py",
    "claims/test_training.py",
    "cluster/test_autoscaling.py",
    "cluster/test_keeping_nothing.py",
)
"""Files that take half a minute or more, the longest first"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that no process is left alone with one of them when the others are done."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    assert all(path.exists() for path in places), "LONG names a file that is not there"
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """gRPC's event loop is asyncio's (grpc/grpc#25050)."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Keeps one event loop, and gRPC's poller thread, for all tests.

    All loops of a process share gRPC's queue of events: one that comes late for a closed loop raises in another one,
    which is the next test's. And the last channel of a test would wait for the poller's end, on the loop.
    """
    aio.init_grpc_aio()
    yield
    aio.shutdown_grpc_aio()


@pytest.fixture
def random() -> np.random.Generator:
    """Return a generator of the test's own, so that what it draws does not depend on the tests before it."""
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def blockbuster(request: pytest.FixtureRequest) -> Iterator[BlockBuster | None]:
    """Makes a blocking call on the event loop an error, in tests that are coroutines."""
    if not inspect.iscoroutinefunction(request.function):
        yield None
        return
    with blockbuster_ctx() as detector:
        yield detector


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests; whoever stops it starts it again."""
    if PROGRAMS is None:
        pytest.skip("PostgreSQL is not installed")
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a new store of each backend that ships."""
    return new_store(request.param, request, tmp_path)
