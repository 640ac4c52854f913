"""What cues look like."""

import pytest
import torch
from tests.support.tiny_training import seeded
from torch import Tensor

from attractor_server.errors import SettingsError
from attractor_server.fields import Field, Layout
from attractor_server.training.datasets import IMAGE
from attractor_server.training.datasets.drifts import apply_drifts, measure_drifts
from attractor_server.training.distortions import BACKGROUND, BRIGHTNESS, Cues, distort, draw_blocks
from attractor_server.training.recipe import CueKind, CueTable, DistortionTable

SIDE = (28, 28)
BLOCK = 14
IMAGES = Layout((IMAGE,))
PAIR = Layout((Field(name="key", kind="vector", shape=(6,)), Field(name="value", kind="vector", shape=(4,))))


def cues(x: Tensor, layout: Layout, *tables: CueTable, drifts: Tensor | None = None) -> Cues:
    return distort(x, layout, tables, seeded(), drifts=drifts)


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


@pytest.mark.parametrize("kind", ["block", "rows", "shift"])
def test_an_image_s_distortion_of_what_is_no_image_is_refused(kind: CueKind) -> None:
    with pytest.raises(SettingsError, match=rf"cues\.kind: saw '{kind}' for the field 'key'; expected an image field"):
        cues(torch.rand(2, 2, 10), PAIR, CueTable(kind=kind, amount=2))


@pytest.mark.parametrize("told", [0.0, 1.0])
def test_a_clean_cue_is_the_pattern_itself(told: float) -> None:
    x = torch.rand(5, 3, 10, generator=seeded())
    made = cues(x, PAIR, CueTable(kind="clean", told=told))
    assert torch.equal(made.values, x)
    assert made.known.all() if told else not made.known.any()


def test_dark_rows_are_so_many_and_lie_together_anywhere() -> None:
    x = 0.1 + 0.9 * torch.rand(200, 3, 784, generator=seeded())
    made = cues(x, IMAGES, CueTable(kind="rows", amount=8, told=1.0))
    dark = (made.values == BACKGROUND).unflatten(-1, SIDE)
    assert torch.equal(dark.any(-1), dark.all(-1))
    assert dark.all(-1).sum(-1).eq(8).all()
    assert dark.all(-1).int().diff(dim=-1).abs().sum(-1).max() <= 2
    assert set(dark.all(-1).int().argmax(-1).flatten().tolist()) == set(range(SIDE[0] - 8 + 1))
    assert torch.equal(made.known, (made.values != BACKGROUND))


@pytest.mark.parametrize("colours", [1, 3])
def test_shifted_images_move_by_whole_pixels_each_way_and_are_dark_at_the_edge(colours: int) -> None:
    field = Field(name="image", kind="image", shape=(6, 9, colours), minimum=0, maximum=1)
    x = 0.1 + torch.rand(40, 5, 6 * 9 * colours, generator=seeded())
    made = cues(x, Layout((field,)), CueTable(kind="shift", amount=2)).values.unflatten(-1, field.shape)
    moves = set()
    for image, cue in zip(x.unflatten(-1, field.shape).flatten(0, 1), made.flatten(0, 1), strict=True):
        found = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if torch.equal(moved(image, dy, dx), cue)]
        assert len(found) == 1
        moves.update(found)
    assert len(moves) == 25


def moved(image: Tensor, down: int, right: int) -> Tensor:
    """An image (height, width, colours), moved within a dark frame."""
    height, width = image.shape[:2]
    frame = torch.full((height + 8, width + 8, image.shape[2]), BACKGROUND)
    frame[4 + down : 4 + down + height, 4 + right : 4 + right + width] = image
    return frame[4:-4, 4:-4]


def test_less_contrast_leaves_that_share_of_it_and_adds_light_all_over() -> None:
    x = torch.rand(50, 4, 784, generator=seeded())
    made = cues(x, IMAGES, CueTable(kind="contrast", amount=0.5)).values
    light = made - 0.5 * x
    assert light.std(-1).max() < 1e-5
    assert 0 <= light.min() < 0.02
    assert 0.48 * BRIGHTNESS < light.max() <= 0.5 * BRIGHTNESS


def test_further_distortions_follow_the_first_and_only_what_none_touched_is_known() -> None:
    x = 0.1 + 0.9 * torch.rand(20, 10, 784, generator=seeded())
    noise = DistortionTable(kind="noise", amount=0.2)
    noisy = cues(x, IMAGES, CueTable(kind="block", amount=11, then=[noise], told=1.0))
    assert (noisy.values - x).std() > 0.3
    assert (noisy.values == BACKGROUND).sum() == 0  # the block is noisy, too
    assert not noisy.known.any()
    rows = DistortionTable(kind="rows", amount=8)
    faded = cues(x, IMAGES, CueTable(kind="contrast", amount=0.5, then=[rows])).values
    assert (faded == BACKGROUND).sum(-1).eq(8 * 28).all()
    twice = CueTable(kind="missing", amount=0.5, field="key", then=[DistortionTable(kind="field", field="value")])
    made = cues(torch.rand(4, 3, 10), PAIR, twice)
    assert made.values[..., 6:].isnan().all()
    assert made.values[..., :6].isnan().sum(-1).eq(3).all()


def test_drifting_cues_are_as_far_from_their_patterns_as_other_wordings_are_and_as_long_as_they() -> None:
    layout = Layout((Field(name="x", kind="vector", shape=(48,)),))
    texts, others, x = torch.randn(3, 2000, 48, generator=seeded())
    drifts = measure_drifts(texts, texts + 0.5 * others)
    assert torch.allclose(
        apply_drifts(texts, drifts) / texts.norm(dim=-1, keepdim=True), units(texts + 0.5 * others), atol=1e-4
    )
    made = cues(3 * x[None], layout, CueTable(kind="drift"), drifts=drifts)
    assert torch.allclose(made.values.norm(dim=-1), 3 * x.norm(dim=-1), rtol=1e-4)
    found, wanted = (units(made.values[0]) * units(x)).sum(-1), drifts.norm(dim=-1).cos()
    assert found.mean().item() == pytest.approx(wanted.mean().item(), abs=0.01)
    assert found.std().item() == pytest.approx(wanted.std().item(), abs=0.01)
    half = cues(3 * x[None], layout, CueTable(kind="drift", amount=0.5), drifts=drifts)
    angles = (units(half.values[0]) * units(x)).sum(-1).arccos()
    assert angles.mean().item() == pytest.approx(0.5 * drifts.norm(dim=-1).mean().item(), abs=0.01)
    assert not made.known.any()


def units(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def test_missing_entries_of_a_drifting_cue_stay_missing() -> None:
    layout = Layout((Field(name="x", kind="vector", shape=(8,)),))
    gaps = CueTable(kind="missing", amount=0.5, then=[DistortionTable(kind="drift")])
    made = cues(torch.rand(3, 4, 8), layout, gaps, drifts=torch.randn(5, 8, generator=seeded()))
    assert made.values.isnan().sum(-1).eq(4).all()


@pytest.mark.parametrize("drifts", [None, torch.ones(3, 7)])
def test_a_drift_of_data_without_other_wordings_is_refused(drifts: Tensor | None) -> None:
    with pytest.raises(SettingsError, match=r"cues\.kind: saw 'drift' for the field 'key'; expected data with other"):
        cues(torch.rand(2, 2, 10), PAIR, CueTable(kind="drift"), drifts=drifts)
