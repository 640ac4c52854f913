"""Kinds of inputs and of energy networks on the served path (claims 9, 10, 11)."""

from collections.abc import Mapping

import numpy as np
import pytest
from tests.support.oracle import TOLERANCE, Floats, damaged, error, recalled, stored_patterns, written
from tests.support.trained_models import without_weights, without_writing

import attractor
from attractor_server.energy.model import Model


async def completed(
    client: attractor.AsyncClient, model: Model, patterns: attractor.Patterns, cues: attractor.Patterns
) -> tuple[attractor.Recall, attractor.Recall]:
    """The cues completed, nothing held, by a memory that stored the patterns, and by one that stored nothing."""
    memory, empty = [await client.create_memory(f"{name}-{model.name}", model=model.name) for name in ("full", "empty")]
    await memory.store(patterns)
    return await memory.query(cues, known=False), await empty.query(cues, known=False)


@pytest.mark.parametrize(("name", "kind"), [("image", "image"), ("sound", "audio"), ("signs", "vector")])
async def test_images_and_sound_and_vectors_are_completed(
    client: attractor.AsyncClient, models: Mapping[str, Model], name: str, kind: str
) -> None:
    model = models[name]
    patterns: Floats = stored_patterns(model)
    cues = damaged(patterns, noise=0.1)
    (field,) = (await client.model(name)).fields
    assert (field.kind, field.shape) == (kind, patterns.shape[1:])
    found, guessed = await completed(client, model, patterns, cues)
    gaps = np.isnan(cues)
    assert error(found.pattern, patterns) < 0.25 * error(guessed.pattern, patterns)
    assert error(found.pattern[gaps], patterns[gaps]) < 0.25 * error(guessed.pattern[gaps], patterns[gaps])


async def test_texts_are_completed(client: attractor.AsyncClient, models: Mapping[str, Model]) -> None:
    words = ["abbade", "cede", "decada"]
    cues = [words[0][:3] + 3 * attractor.MISSING, "?ede".replace("?", attractor.MISSING), "decada"]
    (field,) = (await client.model("text")).fields
    assert (field.kind, field.alphabet) == ("text", " abcde")
    found, guessed = await completed(client, models["text"], words, cues)
    assert found.text() == words
    assert guessed.text() != words


@pytest.mark.parametrize(
    ("name", "layers"),
    [("image", {"conv.kernel", "block1.kernel"}), ("sound", {"forward.state", "backward.state"})],
    ids=["convolutional", "recurrent"],
)
async def test_networks_of_these_layers_recall(
    client: attractor.AsyncClient, models: Mapping[str, Model], name: str, layers: set[str]
) -> None:
    model = models[name]
    assert layers < set(model.parameters.slow)
    patterns = stored_patterns(model)
    cues = damaged(patterns, noise=0.1)
    found, _ = await completed(client, model, patterns, cues)
    fast = written(model, patterns)
    np.testing.assert_allclose(found.pattern, recalled(model, fast, cues), atol=TOLERANCE)
    for deaf in (without_weights(model, layers), without_writing(model)):
        other = recalled(deaf, written(deaf, patterns), cues)
        assert np.abs(found.pattern - other).max() > 50 * TOLERANCE
