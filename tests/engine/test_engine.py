"""The engine over a real bank: batches equal single jobs, and memories do not touch one another."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.support.engine_bench import Bench, patterns
from tests.support.tiny_models import IMAGE, KEY, VALUE, WORD, able_model, tiny_model, whitened_model

from attractor_server.energy import reference
from attractor_server.energy.model import Model
from attractor_server.energy.reader import read
from attractor_server.engine.pages.bank import Bank
from attractor_server.errors import MemoryNotFound, ServerError, WriteDiverged
from attractor_server.memories.outcomes import Deleted, Recalled, Recognized, Stored
from attractor_server.memories.page import Page
from attractor_server.scheduling.jobs import Operation

MODEL = tiny_model("tiny", IMAGE)


@pytest.fixture
def bench(loop: asyncio.AbstractEventLoop) -> Bench:
    return Bench(MODEL, loop)


def test_a_store_and_a_query_are_what_the_reference_says(bench: Bench, random: np.random.Generator) -> None:
    stored, more, cues = patterns(random, 3), patterns(random, 2), patterns(random, 2)
    bench.store("a", stored)
    bench.store("a", more)
    encoded = [[bench.model.encode(torch.from_numpy(row)) for row in rows] for rows in (stored, more, cues)]
    fast = dict(MODEL.parameters.initial)
    fast = reference.write(MODEL.network, MODEL.parameters, fast, encoded[0], stored=0)
    fast = reference.write(MODEL.network, MODEL.parameters, fast, encoded[1], stored=3)
    nothing = torch.zeros(IMAGE.size, dtype=torch.bool)
    expected = [
        bench.model.decode(reference.read(MODEL.network, MODEL.parameters, fast, x, known=nothing, steps=MODEL.steps))
        for x in encoded[2]
    ]
    np.testing.assert_allclose(bench.recall("a", cues), torch.stack(expected).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_jobs_in_one_batch_get_what_they_get_alone(bench: Bench, random: np.random.Generator) -> None:
    sizes = {"a": 1, "b": 5, "c": 8, "d": 3}
    given = {name: patterns(random, size) for name, size in sizes.items()}
    jobs = [bench.job(Operation.STORE, name, values) for name, values in given.items()]
    assert bench.run(*jobs) == [Stored(version=1, patterns=size) for size in sizes.values()]
    cues = {name: patterns(random, size) for name, size in sizes.items()}
    together = bench.run(*(bench.job(Operation.QUERY, name, cue) for name, cue in cues.items()))
    for name, recalled in zip(sizes, together, strict=True):
        alone = f"{name} alone"
        bench.store(alone, given[name])
        assert isinstance(recalled, Recalled)
        np.testing.assert_allclose(recalled.values, bench.recall(alone, cues[name]), rtol=1e-5, atol=1e-5)


def test_several_queries_of_one_memory_are_answered_each_with_its_own(
    bench: Bench, random: np.random.Generator
) -> None:
    bench.store("a", patterns(random, 4))
    cues = [patterns(random, size) for size in (1, 3, 2)]
    together = bench.run(*(bench.job(Operation.QUERY, "a", cue) for cue in cues))
    for cue, recalled in zip(cues, together, strict=True):
        assert isinstance(recalled, Recalled)
        assert recalled.energy_before.shape == (len(cue),)
        np.testing.assert_allclose(recalled.values, bench.recall("a", cue), rtol=1e-5, atol=1e-5)


def test_another_memorys_data_never_changes_a_bit(
    bench: Bench, loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> None:
    mine, cue = patterns(random, 3), patterns(random, 3)
    seen: list[Sequence[bytes]] = []
    for theirs in (patterns(random, 4), 1e3 * patterns(random, 4)):
        one = Bench(MODEL, loop)
        one.run(one.job(Operation.STORE, "mine", mine), one.job(Operation.STORE, "theirs", theirs))
        recalled, _ = one.run(one.job(Operation.QUERY, "mine", cue), one.job(Operation.QUERY, "theirs", theirs))
        assert isinstance(recalled, Recalled)
        seen.append((recalled.values.tobytes(), recalled.energy_after.tobytes()))
    assert seen[0] == seen[1]


def test_a_write_that_diverges_is_refused_alone_and_changes_nothing(
    loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> None:
    model = tiny_model("pair", KEY, VALUE)
    bench = Bench(model, loop)
    fine, huge = patterns(random, 2, 14), np.full((2, 14), 3e38, np.float32)
    bench.store("a", fine)
    before = bench.recall("a", fine)
    refused, stored = bench.run(bench.job(Operation.STORE, "a", huge), bench.job(Operation.STORE, "b", fine))
    assert isinstance(refused, WriteDiverged)
    assert stored == Stored(version=1, patterns=2)
    assert (bench.memories["a"].version, bench.memories["a"].patterns) == (1, 2)
    assert (bench.recall("a", fine) == before).all()


@pytest.mark.parametrize("model", [MODEL, whitened_model("whitened", IMAGE)], ids=lambda model: model.name)
def test_known_entries_come_back_as_they_were_given(
    model: Model, loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> None:
    bench = Bench(model, loop)
    bench.store("a", patterns(random, 4))
    cue, known = patterns(random, 3), random.random((3, IMAGE.size)) < 0.5
    (recalled,) = bench.run(bench.job(Operation.QUERY, "a", cue, known))
    assert isinstance(recalled, Recalled)
    assert (recalled.values[known] == cue[known]).all()
    assert (recalled.values[~known] != cue[~known]).all()
    (free,) = bench.run(bench.job(Operation.QUERY, "a", cue))
    assert isinstance(free, Recalled)
    assert (recalled.values[~known] != free.values[~known]).any()  # what is known bears on the rest


@pytest.mark.parametrize("text", [False, True])
def test_what_is_pulled_is_read_as_the_core_reads_it_and_nothing_is_put_back(
    loop: asyncio.AbstractEventLoop, text: bool, random: np.random.Generator
) -> None:
    model = able_model("able", WORD, KEY) if text else able_model("able", IMAGE)
    bench = Bench(model, loop)
    cue = patterns(random, 3, model.layout.size)
    if text:
        cue[:, :6] = random.integers(0, 6, (3, 6))
    bench.store("a", cue[:1])
    known = random.random(cue.shape) < 0.5
    cue[~known & (random.random(cue.shape) < 0.3)] = np.nan
    job = bench.job(Operation.QUERY, "a", cue, known)
    job.pull = True
    (recalled,) = bench.run(job)
    assert isinstance(recalled, Recalled)
    given, mask = torch.from_numpy(cue)[None], torch.from_numpy(known)[None]
    fast = bench.engine._states[model.digest].bank.gather(torch.tensor([1]))
    x, pull = model.encode(given), model.pull(given, mask)
    with torch.no_grad():
        expected = read(model.network, model.parameters, fast, x, pull=pull)
        free = read(model.network, model.parameters, fast, x)
    np.testing.assert_allclose(recalled.values, model.decode(expected.pattern)[0].numpy(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(recalled.energy_after, free.energy_after[0].numpy())
    assert (recalled.values[known] != cue[known]).any()


def test_a_job_that_pulls_shares_no_batch_with_one_that_holds(bench: Bench, random: np.random.Generator) -> None:
    holds, also_holds, pulls = (bench.job(Operation.QUERY, "a", patterns(random, 1)) for _ in range(3))
    pulls.pull = True
    assert holds.program == also_holds.program
    assert holds.program != pulls.program


def test_what_was_stored_is_more_familiar_than_in_an_empty_memory(bench: Bench, random: np.random.Generator) -> None:
    known = patterns(random, 4)
    bench.store("a", known)
    of_known, of_unknown = (
        bench.run(bench.job(Operation.RECOGNIZE, "a", values))[0] for values in (known, patterns(random, 4))
    )
    assert isinstance(of_known, Recognized)
    assert isinstance(of_unknown, Recognized)
    assert (of_known.delta_energy < 0).all()
    assert of_known.delta_energy.mean() < of_unknown.delta_energy.mean()
    (empty,) = bench.run(bench.job(Operation.RECOGNIZE, "empty", known))
    assert isinstance(empty, Recognized)
    assert (empty.delta_energy == 0).all()


def test_a_full_bank_takes_new_memories_and_keeps_the_old(
    loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> None:
    bench = Bench(MODEL, loop, bank_bytes=2 * MODEL.page_bytes)
    mine = patterns(random, 2)
    for name in ("a", "b"):
        assert isinstance(bench.store(name, mine), Stored)
    before = bench.recall("a", mine)
    for name in ("c", "d", "e"):
        assert isinstance(bench.store(name, mine), Stored)
    assert (bench.recall("a", mine) == before).all()


def test_deleting_leaves_nothing_of_the_weights(loop: asyncio.AbstractEventLoop, random: np.random.Generator) -> None:
    bench = Bench(MODEL, loop, bank_bytes=2 * MODEL.page_bytes)
    bench.store("a", patterns(random, 2))
    place = bench.memories["a"].pages[0].place
    assert bench.run(bench.job(Operation.DELETE, "a")) == [Deleted()]
    weights = bench.engine._states[MODEL.digest].bank.gather(torch.tensor([place]))
    assert all((tensor == 0).all() for tensor in weights.values())


def test_where_a_part_of_a_batch_fails_the_other_part_is_answered_as_it_was_applied(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, random: np.random.Generator
) -> None:
    publish, calls = Bank.publish, []

    def failing(bank: Bank, pages: Sequence[Page], fast: dict[str, torch.Tensor]) -> object:
        calls.append(pages)
        if len(calls) == 2:
            raise MemoryError("too many patterns")
        return publish(bank, pages, fast)

    monkeypatch.setattr(Bank, "publish", failing)
    small, large = patterns(random, 1), patterns(random, 4)
    applied, failed = bench.run(bench.job(Operation.STORE, "a", small), bench.job(Operation.STORE, "b", large))
    assert applied == Stored(version=1, patterns=1)
    assert isinstance(failed, ServerError)
    assert "too many patterns" in caplog.text
    assert (bench.memories["a"].version, bench.memories["b"].version) == (1, 0)


def test_a_store_whose_weights_cannot_be_published_is_not_counted_and_takes_no_place(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    bench = Bench(MODEL, loop, bank_bytes=MODEL.page_bytes)

    def full(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Bank, "publish", full)
        assert isinstance(bench.store("a", patterns(random, 2)), ServerError)
    memory = bench.memories["a"]
    assert (memory.version, memory.patterns, memory.pages) == (0, 0, [])
    assert bench.store("a", patterns(random, 2)) == Stored(version=1, patterns=2)


def test_jobs_of_a_deleted_memory_are_told_so(bench: Bench, random: np.random.Generator) -> None:
    bench.store("a", patterns(random, 1))
    bench.memories["a"].deleted = True
    (outcome,) = bench.run(bench.job(Operation.QUERY, "a", patterns(random, 1)))
    assert isinstance(outcome, MemoryNotFound)
    assert bench.memories["a"].pages[0].written
