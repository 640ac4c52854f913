"""What tests of the engine share: an event loop for its jobs, and a model that ships."""

import asyncio
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import pytest

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model
from attractor_server.engine.engine import Engine
from attractor_server.errors import ServerError
from attractor_server.memories.outcomes import Outcome
from attractor_server.scheduling.jobs import Job


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def binary() -> Model:
    return load_model(Path(str(files("attractor_server"))) / "models" / "binary-128.safetensors")


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each batch of every engine each place of its banks is free once, or one page's."""
    plain = Engine.run

    def run(engine: Engine, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        try:
            return plain(engine, jobs)
        finally:
            engine.check()

    monkeypatch.setattr(Engine, "run", run)
