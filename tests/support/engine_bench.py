"""An engine, and memories for it by name."""

import asyncio

import numpy as np
from numpy.typing import NDArray
from tests.support.tiny_models import IMAGE

from attractor_server.energy.model import Model
from attractor_server.engine.engine import Engine
from attractor_server.engine.slicing import PART_S
from attractor_server.errors import ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Outcome, Recalled
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Job, Operation

STREAM = MemorySettings(write="stream", page_patterns=64)
Values = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Bench:
    """An engine of one model. Memories are made as they are named, with the settings that the bench has then."""

    def __init__(
        self,
        model: Model,
        loop: asyncio.AbstractEventLoop,
        *,
        bank_bytes: int = 1 << 20,
        settings: MemorySettings = STREAM,
        part_s: float = PART_S,
    ) -> None:
        self.model, self._loop = model, loop
        self.engine = Engine([model], bank_bytes=bank_bytes, part_s=part_s)
        self.settings = settings
        self.memories: dict[str, MemoryRecord] = {}

    def memory(self, name: str) -> MemoryRecord:
        made: MemoryRecord = MemoryRecord(
            name=name, model="m", model_digest=self.model.digest, created_s=0.0, settings=self.settings
        )
        return self.memories.setdefault(name, made)

    def job(self, operation: Operation, name: str, values: Values | None = None, known: Mask | None = None) -> Job:
        return Job(
            operation=operation,
            memory=self.memory(name),
            future=self._loop.create_future(),
            values=values,
            known=known,
            steps=self.model.steps if operation is Operation.QUERY else 0,
        )

    def run(self, *jobs: Job) -> list[Outcome | ServerError]:
        return self.engine.run(jobs)

    def store(self, name: str, values: Values) -> Outcome | ServerError:
        return self.run(self.job(Operation.STORE, name, values))[0]

    def erase(self, name: str, values: Values) -> Outcome | ServerError:
        return self.run(self.job(Operation.ERASE, name, values))[0]

    def query(self, name: str, values: Values) -> Recalled:
        (recalled,) = self.run(self.job(Operation.QUERY, name, values))
        assert isinstance(recalled, Recalled)
        return recalled

    def recall(self, name: str, values: Values) -> Values:
        return self.query(name, values).values

    def pages(self, name: str) -> list[int]:
        """The patterns in each page."""
        return [page.patterns for page in self.memories[name].pages]


def patterns(random: np.random.Generator, count: int, size: int = IMAGE.size) -> Values:
    return random.random((count, size), dtype=np.float32)


def signs(random: np.random.Generator, count: int) -> Values:
    """Patterns for the models of 128 signs."""
    return np.where(random.random((count, 128)) < 0.5, -1, 1).astype(np.float32)


def flipped(random: np.random.Generator, values: Values, share: float = 0.15) -> Values:
    """Patterns with the sign of a share of their entries changed."""
    return np.where(random.random(values.shape) < share, -values, values).astype(np.float32)
