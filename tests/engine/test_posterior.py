"""Kept patterns take part in answers: what the engine computes is what `energy.posterior` says, as it was fitted."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model
from attractor_server.engine import compute
from attractor_server.engine.compute.kept import TensorPairs
from attractor_server.engine.engine import Engine
from attractor_server.engine.pages.kept_views import KeptView
from attractor_server.memories.memory import MemoryRecord, record_of
from attractor_server.memories.outcomes import Outcome, Recalled, Recognized
from attractor_server.memories.records import NewMemory
from attractor_server.memories.settings import MemorySettings, Metric, RecallBy
from attractor_server.model_registry import model_paths
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.memory_store import SqlMemoryStore
from attractor_server.training.distortions import Cues
from attractor_server.training.kept import recall_kept

Values = NDArray[np.float32]
MODELS = {path.stem: path for path in model_paths(None)}


class Bench:
    """An engine of one shipped model, with a store."""

    def __init__(self, folder: Path, model: Model, loop: asyncio.AbstractEventLoop) -> None:
        self.model, self._loop = model, loop
        self.database = SqliteDatabase(folder)
        self.store_ = SqlMemoryStore(self.database)
        self.engine = Engine([model], bank_bytes=64 << 20, store=self.store_)

    def memory(
        self, name: str, *, pages: int = 0, metric: Metric = "model", recall: RecallBy = "posterior"
    ) -> MemoryRecord:
        settings = MemorySettings(page_patterns=pages or self.model.capacity, metric=metric, recall=recall)
        new = NewMemory(name=name, model=self.model.name, model_digest=self.model.digest, settings=settings)
        return record_of(self.store_.create([new])[0])

    def job(self, operation: Operation, memory: MemoryRecord, values: Values, known: NDArray[np.bool_] | None) -> Job:
        steps = self.model.steps if operation is Operation.QUERY else 0
        future = self._loop.create_future()
        return Job(operation=operation, memory=memory, future=future, values=values, known=known, steps=steps)

    def store(self, memory: MemoryRecord, values: Values) -> None:
        self.run(self.job(Operation.STORE, memory, values, None))

    def erase(self, memory: MemoryRecord, values: Values) -> None:
        self.run(self.job(Operation.ERASE, memory, values, None))

    def query(
        self,
        memory: MemoryRecord,
        values: Values,
        known: NDArray[np.bool_] | None = None,
        *,
        kept: bool | None = None,
        matches: int = 0,
        trajectory: bool = False,
    ) -> Recalled:
        job = self.job(Operation.QUERY, memory, values, known)
        job.kept, job.matches, job.trajectory = kept, matches, trajectory
        recalled = self.run(job)
        assert isinstance(recalled, Recalled)
        return recalled

    def recognize(self, memory: MemoryRecord, values: Values) -> Recognized:
        recognized = self.run(self.job(Operation.RECOGNIZE, memory, values, None))
        assert isinstance(recognized, Recognized)
        return recognized

    def run(self, job: Job) -> Outcome:
        (outcome,) = self.engine.run([job])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def draw(self, random: np.random.Generator, count: int) -> Values:
        """Draw patterns of the model's kinds, about as large as those that it was trained on."""
        values = np.empty((count, self.model.layout.size), np.float32)
        for field, span in self.model.layout.spans:
            shape = count, span.stop - span.start
            match field.kind:
                case "vector":
                    drawn = random.standard_normal(shape)
                    values[:, span] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
                case "binary":
                    values[:, span] = np.where(random.random(shape) < 0.5, -1, 1)
                case "text":
                    values[:, span] = random.integers(0, len(field.alphabet), shape)
                case _:
                    values[:, span] = random.random(shape) ** 3
        return values

    def expect(self, memory: MemoryRecord, values: Values, cues: Values, known: NDArray[np.bool_]) -> tuple[Values, ...]:
        """Return answers, probabilities and matches by what fits posteriors, of a memory of one page."""
        assert self.model.posterior is not None
        state = self.engine._states[self.model.digest]  # noqa: SLF001 - weights of a page have no other way out
        fast = state.copy_pages(memory.pages, 1)
        told = Cues(torch.from_numpy(cues)[None], torch.from_numpy(known)[None])
        found = recall_kept(self.model, self.model.posterior, fast, torch.from_numpy(values)[None], told)
        return tuple(one[0].numpy() for one in (found.answers, found.known, found.matches))


@pytest.fixture(params=["embedding-384", "glyphs-28-small", "binary-128", "text", "binding-384"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    made = Bench(tmp_path, load_model(MODELS[request.param]), loop)
    yield made
    made.database.close()
    loop.close()


def distort(bench: Bench, random: np.random.Generator, values: Values) -> Values:
    """Return cues with other values in a tenth of the places."""
    return np.where(random.random(values.shape) < 0.1, bench.draw(random, len(values)), values)


@pytest.mark.parametrize("metric", ["own", "model"])
@pytest.mark.parametrize("masked", [False, True])
def test_answers_and_probabilities_are_those_of_the_fitted_posterior(
    bench: Bench, metric: Metric, masked: bool, random: np.random.Generator
) -> None:
    memory, values = bench.memory("a", metric=metric), bench.draw(random, 12)
    bench.store(memory, values)
    cues = np.concatenate([distort(bench, random, values[:6]), bench.draw(random, 3)])
    known = np.zeros(cues.shape, np.bool_)
    if masked:
        known[:, : cues.shape[1] // 2] = True
    recalled = bench.query(memory, cues, known if masked else None, matches=3)
    answers, probability, matches = bench.expect(memory, values, cues, known)
    assert recalled.probability is not None
    assert recalled.matches is not None
    assert recalled.matches.probability is not None
    np.testing.assert_allclose(recalled.probability, probability, atol=5e-3)
    np.testing.assert_allclose(recalled.values, answers, atol=5e-3)
    first = matches.argmax(1)
    np.testing.assert_array_equal(recalled.matches.values.reshape(9, 3, -1)[:, 0], values[first])
    np.testing.assert_allclose(
        recalled.matches.probability.reshape(9, 3), -np.sort(-matches, axis=1)[:, :3], atol=2e-2
    )
