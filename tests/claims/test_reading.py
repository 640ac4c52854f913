"""The reading loop on the served path (claims 1, 12, 13, 14, 17, 20)."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from tests.support.oracle import TOLERANCE, Floats, damaged, error, recalled, slopes, stored_patterns, written
from tests.support.trained_models import POSTERIOR

import attractor
from attractor_server.energy import reference
from attractor_server.energy.model import Model
from attractor_server.energy.posterior import AGREEMENTS, NONE, STORED_ODDS


async def iterates_of(client: attractor.AsyncClient, model: Model, *, steps: int = 0) -> attractor.Trajectory:
    """From noisy cues with gaps, in a new memory."""
    patterns = stored_patterns(model)
    memory = await client.create_memory(f"of-{model.name}", model=model.name)
    await memory.store(patterns)
    recall = await memory.query(damaged(patterns, noise=0.2), known=False, steps=steps, trajectory=True)
    assert recall.trajectory is not None
    return recall.trajectory


def descended(model: Model, x: Floats, momentum: Floats) -> Floats:
    """From iterates x (steps + 1, patterns, d), what each step should come to: a gradient step from a point ahead.

    `momentum` (steps,): how much of the last move goes on.
    """
    fast, moved = written(model, stored_patterns(model)), np.zeros_like(x[0])
    found = []
    for k, step in enumerate(model.parameters.reader["log_step"].exp().numpy()):
        ahead = x[k] + momentum[k] * moved
        found.append(ahead - step * slopes(model, fast, ahead))
        moved = x[k + 1] - x[k]
    return np.stack(found)


@pytest.mark.parametrize("name", ["signs", "mlp"])
async def test_reading_falls_in_energy_towards_what_was_stored(
    client: attractor.AsyncClient, models: Mapping[str, Model], name: str
) -> None:
    patterns, model = stored_patterns(models[name]), models[name]
    trajectory = await iterates_of(client, model)
    x = trajectory.pattern
    assert (trajectory.energy[-1] < trajectory.energy[0]).all()
    assert error(x[-1], patterns) < 0.5 * error(x[0], patterns)
    empty = await client.create_memory("empty", model=name)
    assert error(x[-1], patterns) < 0.5 * error((await empty.query(x[0])).pattern, patterns), "a memory is needed"


async def test_each_plain_iterate_is_a_gradient_step_on_the_input(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    model = models["plain"]
    x = (await iterates_of(client, model)).pattern
    expected = descended(model, x, np.zeros(model.steps, np.float32))
    np.testing.assert_allclose(x[1:], expected, atol=TOLERANCE)
    assert np.abs(x[1:] - x[:-1]).max((1, 2)).min() > 50 * TOLERANCE, "every step moves"


async def test_nesterov_momentum_looks_ahead_along_the_last_move(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    model = models["signs"]
    x = (await iterates_of(client, model)).pattern
    momentum = model.parameters.reader["momentum_logit"].sigmoid().numpy()
    np.testing.assert_allclose(x[1:], descended(model, x, momentum), atol=TOLERANCE)
    plain = (await iterates_of(client, models["plain"])).pattern
    np.testing.assert_allclose(x[:2], plain[:2], atol=TOLERANCE)  # the first step has nothing to go on
    assert np.abs(x[2:] - plain[2:]).max() > 50 * TOLERANCE


async def test_missing_entries_are_completed(client: attractor.AsyncClient, models: Mapping[str, Model]) -> None:
    patterns = stored_patterns(models["signs"])
    cues = damaged(patterns)
    gaps = np.isnan(cues)
    memory, empty = [await client.create_memory(name, model="signs") for name in ("full", "empty")]
    await memory.store(patterns)
    completed, guessed = [(await one.query(cues)).pattern for one in (memory, empty)]
    assert (np.sign(completed) == patterns)[gaps].all()
    assert error(completed[gaps], patterns[gaps]) < 0.1 * error(guessed[gaps], patterns[gaps])


async def test_noise_is_cleaned(client: attractor.AsyncClient, models: Mapping[str, Model]) -> None:
    patterns = stored_patterns(models["signs"])
    cues = damaged(patterns, share=0.0, noise=0.6)
    memory, empty = [await client.create_memory(name, model="signs") for name in ("full", "empty")]
    await memory.store(patterns)
    cleaned, guessed = [(await one.query(cues)).pattern for one in (memory, empty)]
    assert error(cleaned, patterns) < 0.3 * error(cues, patterns)
    assert error(cleaned, patterns) < 0.3 * error(guessed, patterns)


async def test_known_entries_are_held_and_help_the_others(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    model = models["signs"]
    patterns = stored_patterns(model)
    cues = damaged(patterns, noise=0.2)
    known = ~np.isnan(cues)
    memory = await client.create_memory("a", model="signs")
    await memory.store(patterns)
    recall, free = await memory.query(cues, known=known, trajectory=True), await memory.query(cues, known=False)
    assert recall.trajectory is not None
    held = recall.trajectory.pattern
    assert (held[:, known] == cues[known]).all()
    assert (free.pattern[known] != cues[known]).all()
    expected = descended(model, held, model.parameters.reader["momentum_logit"].sigmoid().numpy())
    np.testing.assert_allclose(held[1:, ~known], expected[:, ~known], atol=TOLERANCE)
    assert np.abs(recall.pattern - free.pattern)[~known].max() > 50 * TOLERANCE
    assert (np.sign(recall.pattern) == patterns).all()


async def test_the_learned_step_sizes_scale_the_gradients(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    once, twice = [(await iterates_of(client, models[name], steps=1)).pattern for name in ("signs", "far")]
    np.testing.assert_allclose(twice[1] - twice[0], 2 * (once[1] - once[0]), atol=TOLERANCE)
    assert np.abs(once[1] - once[0]).max() > 50 * TOLERANCE


async def test_the_file_fixes_the_reading_steps_unless_a_query_asks_for_others(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    model = models["signs"]
    patterns = stored_patterns(model)
    cues, fast = damaged(patterns, noise=0.2), written(model, patterns)
    memory = await client.create_memory("a", model="signs")
    await memory.store(patterns)
    assert (await client.model("signs")).steps == len(model.parameters.reader["log_step"]) == 4
    answers: dict[int, torch.Tensor] = {}
    for steps in (0, 1, 4, 7):
        recall = await memory.query(cues, known=False, steps=steps)
        assert recall.steps.tolist() == [steps or 4] * 3
        np.testing.assert_allclose(recall.pattern, recalled(model, fast, cues, steps=steps), atol=TOLERANCE)
        answers[steps] = torch.tensor(recall.pattern)
    assert torch.equal(answers[0], answers[4])
    assert not torch.allclose(answers[1], answers[4], atol=0.01)
    assert not torch.allclose(answers[7], answers[4], atol=0.001)


async def test_kept_patterns_add_a_term_to_the_energy_that_the_answer_is_a_gradient_step_on(
    keeping: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    patterns = stored_patterns(models["keeper"])
    memory = await keeping.create_memory("a", model="keeper")
    await memory.store(patterns)
    cues = np.asarray(patterns + 0.2 * np.random.default_rng(0).standard_normal(patterns.shape), np.float32)
    recall = await memory.query(cues, trajectory=True)
    alone = await memory.query(cues, trajectory=True, kept=False)
    assert recall.trajectory is not None
    assert alone.trajectory is not None
    # The network reads as without them, and what it read is where the last step begins
    np.testing.assert_allclose(recall.trajectory.pattern[:-1], alone.trajectory.pattern, atol=TOLERANCE)
    np.testing.assert_array_equal(recall.trajectory.pattern[-1], recall.pattern)
    kept = torch.from_numpy(patterns)
    for cue, reading, delta, answer in zip(cues, alone.pattern, alone.delta_energy, recall.pattern, strict=True):
        x = [torch.from_numpy(one) for one in (cue, reading)]
        seen = [dict(zip(AGREEMENTS, reference.agreements([*x, one], [*x, one]), strict=True)) for one in kept]
        scores = torch.stack([POSTERIOR.weights @ torch.stack(list(one.values())) for one in seen])
        own = reference.agreements([x[0], x[1], x[1]], [x[0], x[1], x[1]])
        features = [1.0, float(delta), float(np.log(len(kept))), 1.0, float(own[0]), float(own[2]), float(own[4])]
        assert len(features) == len(NONE)
        none = POSTERIOR.none @ torch.tensor(features) - float(np.log(STORED_ODDS))
        expected = reference.posterior_mean(scores, none, kept, x[1])
        assert float(scores.softmax(0).max()) > 0.99  # so that nothing is to be read again
        np.testing.assert_allclose(answer, expected.numpy(), atol=5e-3)
    assert np.abs(recall.pattern - alone.pattern).max() > 0.05, "they take part"
