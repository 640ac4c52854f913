"""What cues look like."""

from dataclasses import replace

import pytest
import torch
from tests.training.tiny import RECIPE
from torch import Generator

from attractor_server.training.distortions import BACKGROUND, BLOCK, add_noise, blocks, occlude
from attractor_server.training.episodes import SIDE, distort, occluded


def generator() -> Generator:
    return Generator().manual_seed(0)


def test_a_block_covers_one_square_of_each_image() -> None:
    covered = blocks(torch.Size([50, 784]), SIDE, generator()).reshape(50, *SIDE)
    assert covered.sum((1, 2)).eq(BLOCK**2).all()
    assert covered.any(2).sum(1).eq(BLOCK).all()
    assert covered.any(1).sum(1).eq(BLOCK).all()
    edges = covered.int().diff(dim=1).abs().sum(1).max(1).values + covered.int().diff(dim=2).abs().sum(2).max(1).values
    assert edges.max() <= 4  # rows and columns that are covered lie together


def test_blocks_lie_in_every_place_there_is() -> None:
    covered = blocks(torch.Size([3000, 784]), SIDE, generator()).reshape(3000, *SIDE)
    assert set(covered.any(2).int().argmax(1).tolist()) == set(range(SIDE[0] - BLOCK + 1))
    assert set(covered.any(1).int().argmax(1).tolist()) == set(range(SIDE[1] - BLOCK + 1))


def test_a_block_need_not_be_square_to_the_image() -> None:
    covered = blocks(torch.Size([4, 2, 6 * 9]), (6, 9), generator(), block=3)
    assert covered.shape == (4, 2, 54)
    assert covered.sum(-1).eq(9).all()


def test_occlusion_puts_background_into_the_block_and_leaves_the_rest() -> None:
    x = torch.rand(5, 3, 784, generator=generator())
    cue = occlude(x, SIDE, generator())
    covered = blocks(x.shape, SIDE, generator())
    assert cue[covered].eq(BACKGROUND).all()
    assert torch.equal(cue[~covered], x[~covered])


def test_noise_has_the_asked_deviation_and_no_offset() -> None:
    noise = add_noise(torch.full((200, 784), 0.3), generator(), sigma=0.6) - 0.3
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.6, abs=0.01)


def test_the_same_seed_makes_the_same_cues() -> None:
    x = torch.rand(5, 3, 784, generator=generator())
    assert torch.equal(occluded(x, generator()).x, occluded(x, generator()).x)
    assert torch.equal(add_noise(x, generator()), add_noise(x, generator()))


def test_occluded_cues_tell_nothing_of_their_block() -> None:
    assert not occluded(torch.zeros(2, 3, 784), generator()).known.any()


@pytest.mark.parametrize(("block_share", "told_share"), [(0.0, 0.0), (0.6, 0.3), (1.0, 1.0)])
def test_cues_are_of_each_kind_in_the_shares_asked_for(block_share: float, told_share: float) -> None:
    table = replace(RECIPE.episodes, block_share=block_share, told_share=told_share)
    x = torch.zeros(60, 40, 784)
    cues = distort(x, table, generator())
    blocked = (cues.x == BACKGROUND).sum(-1) == BLOCK**2
    told = cues.known.any(-1)
    assert blocked.float().mean().item() == pytest.approx(block_share, abs=0.03)
    assert told.float().mean().item() == pytest.approx(block_share * told_share, abs=0.03)
    assert not (told & ~blocked).any()


def test_told_entries_are_those_outside_the_block_and_equal_the_pattern() -> None:
    x = torch.rand(8, 4, 784, generator=generator())
    cues = distort(x, replace(RECIPE.episodes, block_share=1.0, told_share=1.0), generator())
    assert cues.known.sum(-1).eq(784 - BLOCK**2).all()
    assert torch.equal(cues.x[cues.known], x[cues.known])
    assert cues.x[~cues.known].eq(BACKGROUND).all()
