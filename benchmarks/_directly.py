"""Engine alone, in this process: the limit of a server without costs of its own."""

import asyncio

from _tenants import MEMORIES, MODEL, PATTERNS, Vectors, vectors
from torch import set_num_threads

from attractor_server.engine.engine import Engine
from attractor_server.errors import ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Outcome
from attractor_server.memories.settings import MemorySettings
from attractor_server.model_registry import load_models
from attractor_server.scheduling.jobs import Job, Operation


class Directly:
    """Engine with as many memories as are served, each with patterns."""

    def __init__(self, *, bank_bytes: int) -> None:
        set_num_threads(1)
        models = load_models(None, device="cpu")
        self.model = models[MODEL]
        self._engine = Engine(models.values(), bank_bytes=bank_bytes)
        settings = MemorySettings(page_patterns=self.model.capacity)
        self._records: list[MemoryRecord] = [
            MemoryRecord(name=str(n), model=MODEL, model_digest=self.model.digest, created_s=0.0, settings=settings)
            for n in range(MEMORIES)
        ]
        self._loop = asyncio.new_event_loop()
        self._cues = vectors(64, self.model.layout.size)
        values = vectors(PATTERNS, self.model.layout.size)
        self.run([self._job(Operation.STORE, n, values) for n in range(MEMORIES)])

    def queries(self, count: int) -> list[Job]:
        """Return single queries of as many memories."""
        return [self._job(Operation.QUERY, n % MEMORIES, self._cues[n % 64][None]) for n in range(count)]

    def run(self, jobs: list[Job]) -> list[Outcome | ServerError]:
        """Run the jobs, and return their outcomes."""
        return self._engine.run(jobs)

    def _job(self, operation: Operation, memory: int, values: Vectors) -> Job:
        return Job(
            operation=operation,
            memory=self._records[memory],
            future=self._loop.create_future(),
            values=values,
            steps=self.model.steps if operation is Operation.QUERY else 0,
        )
