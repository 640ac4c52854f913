"""The writing loop on the served path (claims 2 to 8, 18, 21)."""

from collections.abc import Mapping

import numpy as np
import pytest
from tests.support.oracle import TOLERANCE, Floats, damaged, error, recalled, stored_patterns, written
from tests.support.trained_models import SUBSETS, without_writing

import attractor
from attractor_server.energy.model import Model

CHANGED = 50 * TOLERANCE
"""How far apart answers are that a mechanism is the reason for"""


async def answered(client: attractor.AsyncClient, model: Model) -> Floats:
    """Cues completed after one store, in a new memory."""
    patterns = stored_patterns(model)
    memory = await client.create_memory(f"of-{model.name}", model=model.name)
    await memory.store(patterns)
    return (await memory.query(damaged(patterns, noise=0.2), known=False)).pattern


def expected(model: Model, by: Model | None = None) -> Floats:
    """The same by plain autograd, the store `by` another model's writing loop."""
    patterns = stored_patterns(model)
    return recalled(model, written(by or model, patterns), damaged(patterns, noise=0.2))


async def familiarity(client: attractor.AsyncClient, model: Model) -> Floats:
    """ΔE of what was stored, in a new memory."""
    patterns = stored_patterns(model)
    memory = await client.create_memory(f"of-{model.name}", model=model.name)
    await memory.store(patterns)
    return (await memory.recognize(patterns)).delta_energy


async def test_a_store_is_a_gradient_descent_that_a_memory_recalls_by(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    model, still = models["signs"], models["still"]
    patterns, cues = stored_patterns(model), damaged(stored_patterns(model), noise=0.2)
    found = await answered(client, model)
    np.testing.assert_allclose(found, expected(model), atol=TOLERANCE)
    assert error(found, patterns) < 0.2 * error(await answered(client, still), patterns)
    unwritten = recalled(still, still.parameters.initial, cues)
    np.testing.assert_allclose(await answered(client, still), unwritten, atol=TOLERANCE)


async def test_only_a_store_changes_a_memory_and_only_that_memory(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    patterns = stored_patterns(models["signs"])
    cues = damaged(patterns)
    memory, other = [await client.create_memory(name, model="signs") for name in ("a", "b")]
    before = (await memory.query(cues)).pattern
    assert ((await memory.query(cues)).pattern == before).all()
    await memory.recognize(patterns)
    assert ((await memory.query(cues)).pattern == before).all()
    await memory.store(patterns)
    assert np.abs((await memory.query(cues)).pattern - before).max() > CHANGED
    assert ((await other.query(cues)).pattern == before).all(), "what memories share was not written"


@pytest.mark.parametrize(
    ("name", "other"),
    [("mlp-gamma", "mlp"), ("mlp", "mlp-no-alpha")],
    ids=["by the writable parameters", "by the input"],
)
async def test_the_size_of_the_energy_gradient_is_written_down(
    client: attractor.AsyncClient, models: Mapping[str, Model], name: str, other: str
) -> None:
    found, without = await answered(client, models[name]), await answered(client, models[other])
    np.testing.assert_allclose(found, expected(models[name]), atol=TOLERANCE)
    np.testing.assert_allclose(without, expected(models[other]), atol=TOLERANCE)
    assert np.abs(found - without).max() > CHANGED


async def test_the_distance_from_initial_weights_draws_a_memory_back(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    """These models' second step only takes back, by the distance term, a share of the first; E is linear in θ."""
    free, halved, drawn = [await familiarity(client, models[name]) for name in ("free", "halved", "drawn")]
    assert (free < -1).all()
    np.testing.assert_allclose(halved, 0.5 * free, rtol=1e-3)
    np.testing.assert_allclose(drawn, 0, atol=1e-3)


@pytest.mark.parametrize("subset", SUBSETS)
async def test_only_the_writable_layers_or_tensors_are_written(
    client: attractor.AsyncClient, models: Mapping[str, Model], subset: str
) -> None:
    model, whole = models[f"mlp-{subset}"], models["mlp"]
    names = {key for key in whole.parameters.initial if key in SUBSETS[subset] or key.split(".")[0] in SUBSETS[subset]}
    assert set(model.parameters.initial) == names
    assert names < set(whole.parameters.initial)
    page_bytes = sum(whole.parameters.initial[key].nbytes for key in names)
    assert (await client.model(model.name)).page_bytes == page_bytes, "a memory has nothing else of its own"
    found = await answered(client, model)
    np.testing.assert_allclose(found, expected(model), atol=TOLERANCE)
    assert np.abs(found - await answered(client, whole)).max() > CHANGED
    assert np.abs(found - expected(model, by=without_writing(model))).max() > CHANGED, "these are written"


async def test_the_highest_layers_are_written_over_activations_that_stay(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    model, whole = models["mlp-highest"], models["mlp"]
    layers = {key.split(".")[0] for key in model.parameters.initial}
    assert layers == {"layer2", "head"}, "all layers from the second on"
    own = written(model, stored_patterns(model))
    weights = {**whole.parameters.initial, **own}
    cues = damaged(stored_patterns(model), noise=0.2)
    np.testing.assert_allclose(await answered(client, model), recalled(whole, weights, cues), atol=TOLERANCE)
    lowest = {**weights, **written(models["mlp-lowest"], stored_patterns(model))}
    assert np.abs(await answered(client, model) - recalled(whole, lowest, cues)).max() > CHANGED


async def test_the_learned_rates_scale_what_is_written(
    client: attractor.AsyncClient, models: Mapping[str, Model]
) -> None:
    """One step of twice the rate goes twice as far, and E is linear in θ."""
    once, faster = [await familiarity(client, models[name]) for name in ("once", "once-faster")]
    assert (once < -1).all()
    np.testing.assert_allclose(faster, 2 * once, rtol=1e-3)


async def test_the_file_fixes_the_writing_steps(client: attractor.AsyncClient, models: Mapping[str, Model]) -> None:
    twice, once = models["signs"], models["once"]
    assert (twice.parameters.writing_steps, once.parameters.writing_steps) == (2, 1)
    found = [await answered(client, model) for model in (twice, once)]
    for values, model in zip(found, (twice, once), strict=True):
        np.testing.assert_allclose(values, expected(model), atol=TOLERANCE)
    assert np.abs(found[0] - found[1]).max() > CHANGED
