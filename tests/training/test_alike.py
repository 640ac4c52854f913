"""Patterns that training sees drawn towards one another, where the recipe asks for it."""

import pytest
import torch
from tests.support.tiny_training import seeded
from torch import Tensor

from attractor_server.errors import SettingsError
from attractor_server.training.datasets import Alike, load_dataset

MEMORIES, COUNT = 40, 5


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return load_dataset("glyphs", "train").sample(MEMORIES, COUNT, seeded())


def distances(patterns: Tensor) -> Tensor:
    """Of each pattern from the first of its memory, (memories, count - 1)."""
    return (patterns[:, 1:] - patterns[:, :1]).square().sum(-1).sqrt()


def test_patterns_come_nearer_to_one_of_them_by_one_part_in_a_memory_and_by_many_in_all(plain: Tensor) -> None:
    seen = Alike(load_dataset("glyphs", "train"), share=1.0).sample(MEMORIES, COUNT, seeded())
    assert torch.equal(seen[:, 0], plain[:, 0])
    parts = distances(seen) / distances(plain)
    assert torch.allclose(parts, parts[:, :1].expand_as(parts), atol=1e-4)
    assert 0.24 < float(parts.min()) < 0.4
    assert 0.9 < float(parts.max()) <= 1.0001
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1


def test_as_many_memories_as_were_asked_for_have_such_patterns(plain: Tensor) -> None:
    data = load_dataset("glyphs", "train")
    assert torch.equal(Alike(data, share=0.0).sample(MEMORIES, COUNT, seeded()), plain)
    changed = (Alike(data, share=0.5).sample(MEMORIES, COUNT, seeded()) != plain).flatten(1).any(1)
    assert MEMORIES / 4 < changed.sum() < MEMORIES * 3 / 4
    assert torch.equal(Alike(data, share=1.0).pool(7), data.pool(7))


def test_text_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"data.alike: saw 0.5 for text \(text\); expected it for numbers alone"):
        Alike(load_dataset("short-texts", "train"), share=0.5)
