"""What is written in an episode, and in which chunks."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.tiny_training import RECIPE, stripes
from torch import Generator

from attractor_server.training.episodes import draw_shape, pick, repeat, split_into_chunks

LIMIT = 64
TABLE = RECIPE.episodes.model_copy(update={"patterns_limit": LIMIT, "singly_share": 0.4})


@given(seed=st.integers(0, 2**32), limit=st.integers(1, 100), share=st.floats(0, 1))
def test_chunks_add_up_to_the_patterns_of_a_memory(seed: int, limit: int, share: float) -> None:
    table = TABLE.model_copy(update={"patterns_limit": limit, "singly_share": share})
    count, chunks = draw_shape(table, Generator().manual_seed(seed))
    assert 1 <= count <= limit
    assert sum(chunks) == count
    assert min(chunks) >= 1


@given(count=st.integers(1, 100), size=st.integers(1, 100))
def test_only_the_last_chunk_may_be_smaller(count: int, size: int) -> None:
    chunks = split_into_chunks(count, size)
    assert sum(chunks) == count
    assert all(chunk == size for chunk in chunks[:-1])
    assert 1 <= chunks[-1] <= size


def test_numbers_of_patterns_are_log_uniform() -> None:
    generator = Generator().manual_seed(0)
    logs = sorted(math.log2(draw_shape(TABLE, generator)[0]) for _ in range(4000))
    for quarter in (1, 2, 3):
        assert logs[1000 * quarter] == pytest.approx(quarter / 4 * math.log2(LIMIT), abs=0.35)


def test_numbers_of_patterns_are_multiples_unless_the_limit_is_none() -> None:
    table = TABLE.model_copy(update={"patterns_multiple": 8, "patterns_limit": 20})
    generator = Generator().manual_seed(0)
    assert {draw_shape(table, generator)[0] for _ in range(200)} == {8, 16, 20}


def test_every_size_of_chunk_is_trained_and_one_at_a_time_most() -> None:
    generator = Generator().manual_seed(0)
    sizes = Counter(draw_shape(TABLE, generator)[1][0] for _ in range(2000))
    assert {1, 2, 4, 8, 16, 32} <= sizes.keys()
    assert sizes[1] / 2000 > TABLE.singly_share


def test_a_memory_holds_images_of_different_classes() -> None:
    data = stripes()
    patterns = data.sample(5, 20, Generator().manual_seed(0))
    assert patterns.shape == (5, 20, 784)
    for memory in patterns:
        numbers = torch.cdist(memory, data.patterns).argmin(1)
        assert len(set(data.classes[numbers].tolist())) == 20


def test_picked_patterns_are_of_their_memory_and_none_twice() -> None:
    patterns = torch.arange(5 * 20).reshape(5, 20, 1).float()
    chosen = pick(patterns, 6, Generator().manual_seed(0))
    assert chosen.shape == (5, 6, 1)
    for memory, picked in zip(patterns, chosen, strict=True):
        assert len(set(picked.flatten().tolist()) & set(memory.flatten().tolist())) == 6


def test_few_patterns_are_all_picked_in_order() -> None:
    patterns = torch.rand(2, 3, 4)
    assert torch.equal(pick(patterns, 3, Generator()), patterns)


def test_some_memories_hold_a_few_patterns_again_and_again_and_the_others_each_once() -> None:
    patterns = torch.arange(800.0).view(100, 8, 1)
    seen = repeat(patterns, 0.5, Generator().manual_seed(0))
    whole = (seen == patterns).flatten(1).all(1)
    assert 30 < whole.sum() < 70
    for memory, (first, *_) in zip(seen[~whole], patterns[~whole, :, 0].tolist(), strict=True):
        assert ((memory >= first) & (memory < first + 8)).all()
    kinds = Counter(len(set(memory.flatten().tolist())) for memory in seen[~whole])
    assert {1, 2, 3} <= kinds.keys()


def test_no_pattern_comes_again_unless_a_recipe_says_so() -> None:
    patterns, generator = torch.arange(80.0).view(10, 8, 1), Generator().manual_seed(0)
    before = generator.get_state()
    assert repeat(patterns, 0.0, generator).equal(patterns)
    assert generator.get_state().equal(before)  # what was trained before can be trained again
