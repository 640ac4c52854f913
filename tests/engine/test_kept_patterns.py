"""Kept patterns take part in answers: what the engine computes is what `energy.posterior` says, as it was fitted."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model
from attractor_server.engine.batch import ModelState
from attractor_server.engine.engine import Engine
from attractor_server.engine.operations.read_cues import Asked, ReadCues
from attractor_server.errors import ServerError
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

    def expect(
        self, memory: MemoryRecord, values: Values, cues: Values, known: NDArray[np.bool_]
    ) -> tuple[Values, ...]:
        """Return answers, probabilities and matches by what fits posteriors, of a memory of one page."""
        assert self.model.posterior is not None
        state = self.engine._states[self.model.digest]
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


def told(answer: Recalled | Recognized) -> Values:
    """Return how probably each cue is of a kept pattern."""
    assert answer.probability is not None
    return answer.probability


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
    np.testing.assert_allclose(recalled.matches.probability.reshape(9, 3), -np.sort(-matches, axis=1)[:, :3], atol=2e-2)


def test_what_noisy_copies_share_is_read_by_the_network_once_more(bench: Bench, random: np.random.Generator) -> None:
    memory, things = bench.memory("a"), bench.draw(random, 2)
    copies = np.concatenate([distort(bench, random, things[[0, 0, 0, 0, 1, 1, 1, 1]])])
    bench.store(memory, copies)
    cues = distort(bench, random, things)
    known = np.zeros(cues.shape, np.bool_)
    answers, probability, _ = bench.expect(memory, copies, cues, known)
    recalled = bench.query(memory, cues)
    np.testing.assert_allclose(recalled.values, answers, atol=2e-2)
    np.testing.assert_allclose(told(recalled), probability, atol=2e-2)


@pytest.mark.parametrize("metric", ["own", "model"])
def test_a_cue_is_compared_with_the_patterns_of_all_pages(
    bench: Bench, metric: Metric, random: np.random.Generator
) -> None:
    memory, values = bench.memory("a", pages=3, metric=metric), bench.draw(random, 14)
    bench.store(memory, values)
    assert len(memory.pages) == 5
    recalled = bench.query(memory, np.concatenate([values, bench.draw(random, 4)]), matches=2)
    assert recalled.probability is not None
    assert recalled.matches is not None
    assert recalled.pages is not None
    np.testing.assert_array_equal(recalled.pages[:14], np.arange(14) // 3)
    np.testing.assert_array_equal(recalled.matches.values.reshape(18, 2, -1)[:14, 0], values)
    np.testing.assert_allclose(recalled.values[:14], values, atol=0.1)
    assert recalled.probability[:14].min() > 0.9


def test_stores_and_erases_are_seen_at_once(bench: Bench, random: np.random.Generator) -> None:
    memory, values = bench.memory("a"), bench.draw(random, 6)
    bench.store(memory, values[:5])
    before = bench.query(memory, values, matches=1)
    bench.store(memory, values[5:])
    bench.erase(memory, values[:1])
    after = bench.query(memory, values, matches=1)
    assert before.matches is not None
    assert after.matches is not None
    own = [(one.matches.values == values).all(1).tolist() for one in (before, after) if one.matches is not None]
    assert own == [[True] * 5 + [False], [False] + [True] * 5]


def test_the_network_alone_answers_where_that_is_asked_for_or_set(bench: Bench, random: np.random.Generator) -> None:
    beside, alone = bench.memory("a"), bench.memory("b", recall="network")
    values = bench.draw(random, 5)
    for memory in (beside, alone):
        bench.store(memory, values)
    network, set_so, other = (
        bench.query(beside, values, kept=False),
        bench.query(alone, values),
        bench.query(beside, values),
    )
    assert network.probability is None
    assert set_so.probability is None
    np.testing.assert_array_equal(network.values, set_so.values)
    np.testing.assert_allclose(bench.query(alone, values, kept=True).values, other.values, atol=1e-4)
    assert other.probability is not None


def test_how_probably_a_pattern_is_known_is_the_same_for_who_asks_for_no_answer(
    bench: Bench, random: np.random.Generator
) -> None:
    memory, values = bench.memory("a"), bench.draw(random, 5)
    bench.store(memory, values)
    cues = np.concatenate([values, bench.draw(random, 2)])
    recognized, recalled = bench.recognize(memory, cues), bench.query(memory, cues)
    np.testing.assert_allclose(told(recognized), told(recalled), atol=1e-5)
    np.testing.assert_allclose(recognized.delta_energy, recalled.delta_energy, rtol=1e-4, atol=1e-4)


def test_the_last_iterate_is_the_answer_and_known_values_come_back(bench: Bench, random: np.random.Generator) -> None:
    memory, values = bench.memory("a"), bench.draw(random, 5)
    bench.store(memory, values)
    known = np.zeros(values.shape, np.bool_)
    known[:, ::2] = True
    cues = distort(bench, random, values)
    recalled = bench.query(memory, cues, known, trajectory=True)
    assert recalled.iterates is not None
    assert recalled.energies is not None
    assert len(recalled.iterates) == len(recalled.energies) == bench.model.steps + 2
    np.testing.assert_array_equal(recalled.iterates[-1], recalled.values)
    np.testing.assert_array_equal(recalled.values[known], cues[known])


def test_it_is_the_same_without_the_native_library(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    memory, values = bench.memory("a", pages=4), bench.draw(random, 10)
    bench.store(memory, values)
    cues = np.concatenate([distort(bench, random, values), bench.draw(random, 3)])
    known = np.zeros(cues.shape, np.bool_)
    known[:5, ::3] = True
    native = bench.query(memory, cues, known, matches=4)
    monkeypatch.setattr("attractor_server.engine.compute.kept.has_kernel", lambda device: False)
    plain = bench.query(memory, cues, known, matches=4)
    np.testing.assert_allclose(told(native), told(plain), atol=1e-4)
    np.testing.assert_allclose(native.values, plain.values, atol=1e-3)
    assert native.matches is not None
    assert plain.matches is not None
    np.testing.assert_array_equal(
        native.matches.values.reshape(13, 4, -1)[:, 0], plain.matches.values.reshape(13, 4, -1)[:, 0]
    )


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("done", ["moved", "covered"])
@pytest.mark.parametrize("bench", ["glyphs-28-small"], indirect=True)
def test_an_image_that_was_moved_by_a_pixel_or_two_or_a_quarter_of_which_was_covered_is_found(
    bench: Bench, done: str, native: bool, monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    if not native:
        monkeypatch.setattr("attractor_server.engine.compute.kept.has_kernel", lambda device: False)
    memory, values = bench.memory("a"), bench.draw(random, 12)
    bench.store(memory, values)
    cues = values.reshape(12, 28, 28).copy()
    for n, image in enumerate(cues):
        if done == "moved":
            image[:] = np.roll(image, (n % 3 - 1, 2 - n % 5), (0, 1))
        else:
            image[n : n + 14, 14 - n : 28 - n] = n % 2
    cues = np.concatenate([cues.reshape(12, -1), bench.draw(random, 3)])
    recalled = bench.query(memory, cues, matches=1)
    answers, probability, _ = bench.expect(memory, values, cues, np.zeros(cues.shape, np.bool_))
    assert recalled.matches is not None
    np.testing.assert_array_equal(recalled.matches.values[:12], values)
    np.testing.assert_allclose(told(recalled), probability, atol=1e-2)
    np.testing.assert_allclose(recalled.values, answers, atol=1e-2)


@pytest.mark.parametrize("bench", ["embedding-384"], indirect=True)
def test_a_memory_whose_patterns_cannot_take_part_fails_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    one, other = bench.memory("a"), bench.memory("b")
    for memory in (one, other):
        bench.store(memory, bench.draw(random, 4))
    gather = ReadCues.of

    def refuse(state: ModelState, asked: Sequence[Asked]) -> ReadCues:
        if any(job.memory is other for job, _ in asked):
            raise RuntimeError("nobody foresaw it")
        return gather(state, asked)

    monkeypatch.setattr(ReadCues, "of", refuse)
    cues = bench.draw(random, 2)
    fine, failed = bench.engine.run([bench.job(Operation.QUERY, memory, cues, None) for memory in (one, other)])
    assert isinstance(fine, Recalled)
    assert fine.probability is not None
    assert isinstance(failed, ServerError)
