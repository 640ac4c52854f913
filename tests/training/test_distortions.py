"""What cues look like."""

import pytest
import torch
from tests.support.tiny_training import seeded
from torch import Tensor

from attractor_server.errors import SettingsError
from attractor_server.fields import Field, Layout
from attractor_server.training.datasets import IMAGE
from attractor_server.training.distortions import BACKGROUND, Cues, distort, draw_blocks
from attractor_server.training.recipe import CueTable

SIDE = (28, 28)
BLOCK = 14
IMAGES = Layout((IMAGE,))
PAIR = Layout((Field(name="key", kind="vector", shape=(6,)), Field(name="value", kind="vector", shape=(4,))))


def cues(x: Tensor, layout: Layout, *tables: CueTable) -> Cues:
    return distort(x, layout, tables, seeded())


def test_a_block_covers_one_square_of_each_image() -> None:
    covered = draw_blocks(torch.Size([50, 784]), SIDE, seeded(), BLOCK).reshape(50, *SIDE)
    assert covered.sum((1, 2)).eq(BLOCK**2).all()
    assert covered.any(2).sum(1).eq(BLOCK).all()
    assert covered.any(1).sum(1).eq(BLOCK).all()
    edges = covered.int().diff(dim=1).abs().sum(1).max(1).values + covered.int().diff(dim=2).abs().sum(2).max(1).values
    assert edges.max() <= 4  # rows and columns that are covered lie together


def test_blocks_lie_in_every_place_there_is() -> None:
    covered = draw_blocks(torch.Size([3000, 784]), SIDE, seeded(), BLOCK).reshape(3000, *SIDE)
    assert set(covered.any(2).int().argmax(1).tolist()) == set(range(SIDE[0] - BLOCK + 1))
    assert set(covered.any(1).int().argmax(1).tolist()) == set(range(SIDE[1] - BLOCK + 1))


def test_a_block_covers_all_channels_and_need_not_be_square_to_the_image() -> None:
    covered = draw_blocks(torch.Size([4, 2, 6 * 9 * 3]), (6, 9, 3), seeded(), 3).reshape(4, 2, 6, 9, 3)
    assert covered.sum((-3, -2, -1)).eq(27).all()
    assert torch.equal(covered[..., 0], covered[..., 2])


def test_occlusion_puts_background_into_the_block_and_leaves_the_rest() -> None:
    x = 0.1 + 0.9 * torch.rand(5, 3, 784, generator=seeded())
    made = cues(x, IMAGES, CueTable(kind="block", amount=BLOCK))
    assert (made.values == BACKGROUND).sum(-1).eq(BLOCK**2).all()
    assert torch.equal(made.values[made.values != BACKGROUND], x[made.values != BACKGROUND])
    assert not made.known.any()


def test_noise_has_the_asked_deviation_and_no_offset() -> None:
    noise = cues(torch.full((20, 10, 784), 0.3), IMAGES, CueTable(kind="noise", amount=0.6)).values - 0.3
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.6, abs=0.01)


def test_flips_turn_the_asked_share_of_signs() -> None:
    x = torch.ones(20, 10, 128)
    made = cues(x, Layout((Field(name="x", kind="vector", shape=(128,)),)), CueTable(kind="flips", amount=0.15))
    assert made.values.abs().eq(1).all()
    assert (made.values < 0).float().mean().item() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("told", [0.0, 1.0])
def test_missing_entries_are_exactly_so_many_and_the_others_are_told_or_not(told: float) -> None:
    x = torch.rand(5, 3, 6 + 4, generator=seeded())
    made = cues(x, PAIR, CueTable(kind="missing", amount=0.5, told=told))
    missing = made.values.isnan()
    assert missing[..., :6].sum(-1).eq(3).all()
    assert missing[..., 6:].sum(-1).eq(2).all()
    assert torch.equal(made.values[~missing], x[~missing])
    assert torch.equal(made.known, ~missing if told else torch.zeros_like(missing))


def test_missing_frames_are_whole_ones() -> None:
    field = Field(name="sound", kind="audio", shape=(8, 5))
    missing = cues(torch.rand(4, 3, 40), Layout((field,)), CueTable(kind="frames", amount=0.5)).values.isnan()
    rows = missing.unflatten(-1, (8, 5))
    assert rows.any(-1).sum(-1).eq(4).all()
    assert torch.equal(rows.any(-1), rows.all(-1))


def test_a_missing_field_leaves_the_other_whole() -> None:
    x = torch.rand(4, 3, 10)
    made = cues(x, PAIR, CueTable(kind="field", field="value", told=1.0))
    assert made.values[..., 6:].isnan().all()
    assert torch.equal(made.values[..., :6], x[..., :6])
    assert made.known[..., :6].all()
    assert not made.known[..., 6:].any()


def test_each_cue_is_made_in_one_of_the_ways_by_their_shares() -> None:
    tables = (CueTable(kind="missing", amount=0.5, share=3), CueTable(kind="noise", amount=0.1, share=1))
    made = cues(torch.rand(200, 10, 10), PAIR, *tables)
    share = made.values.isnan().any(-1).float().mean().item()
    assert share == pytest.approx(0.75, abs=0.03)


def test_cues_are_the_same_for_the_same_seeded() -> None:
    x = torch.rand(3, 2, 784, generator=seeded())
    table = CueTable(kind="block", amount=BLOCK, told=0.5)
    assert torch.equal(cues(x, IMAGES, table).values, cues(x, IMAGES, table).values)


def test_a_block_over_what_is_no_image_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"cues\.kind: saw 'block' for the field 'key'; expected an image field"):
        cues(torch.rand(2, 2, 10), PAIR, CueTable(kind="block", amount=2))
