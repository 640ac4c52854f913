"""Images that training sees mirrored, turned, sheared and in other colours, where the recipe asks for it."""

from dataclasses import dataclass

import pytest
import torch
from tests.support.tiny_training import seeded
from torch import Generator, Tensor

from attractor_server.errors import SettingsError
from attractor_server.fields import Field, Layout
from attractor_server.training.datasets import IMAGE, Warped, load_dataset

MEMORIES, COUNT = 40, 3
COLOURED = Field(name="image", kind="image", shape=(12, 12, 3))


@dataclass(frozen=True)
class Same:
    """A source of one image alone."""

    layout: Layout
    image: Tensor
    drifts: Tensor | None = None

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        del generator
        return self.image.flatten().expand(memories, count, -1)

    def pool(self, limit: int) -> Tensor:
        return self.image.flatten().expand(limit, -1)

    def to(self, device: torch.device) -> "Same":
        return Same(self.layout, self.image.to(device))


def a_spot(row: int, column: int) -> Same:
    """Red where the spot is, blue everywhere."""
    image = torch.zeros(COLOURED.shape)
    image[row - 1 : row + 2, column - 1 : column + 2, 0] = 1
    image[..., 2] = 0.5
    return Same(Layout((COLOURED,)), image)


def test_patterns_of_a_memory_are_warped_alike_and_memories_each_in_their_way() -> None:
    seen = Warped(a_spot(3, 4), share=1.0).sample(MEMORIES, COUNT, seeded())
    assert torch.equal(seen, seen[:, :1].expand_as(seen))
    assert len({tuple(one[0].tolist()) for one in seen}) == MEMORIES


def test_mirrored_or_crossed_a_spot_comes_to_all_places_that_there_are() -> None:
    seen = Warped(a_spot(3, 2), share=1.0).sample(MEMORIES, 1, seeded()).view(MEMORIES, *COLOURED.shape)
    spot = (seen - seen.amin((1, 2), keepdim=True)).sum(-1)  # whatever its colour
    share = spot / spot.sum((1, 2), keepdim=True)
    places = torch.arange(12) - 5.5
    rows, columns = (share.sum(2) * places).sum(1), (share.sum(1) * places).sum(1)
    assert {(bool(row > 0), bool(column > 0)) for row, column in zip(rows, columns, strict=True)} == {
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    }
    assert ((rows.square() + columns.square()).sqrt() - 4.3).abs().max() < 1.5  # sheared, and a little smaller


def test_colours_are_exchanged_in_all_ways_that_there_are_and_alike_in_all_of_a_memory() -> None:
    seen = Warped(a_spot(3, 2), share=1.0).sample(MEMORIES, COUNT, seeded()).view(MEMORIES, COUNT, *COLOURED.shape)
    spans = torch.stack([seen.amin((2, 3)), seen.amax((2, 3))], -1)  # (memories, patterns, colours, 2)
    assert torch.equal(spans, spans[:, :1].expand_as(spans))
    blue, red = (spans[:, 0, :, 0] > 0.4).int().argmax(1), (spans[:, 0].diff(dim=-1) > 0.4).int().flatten(1).argmax(1)
    assert len(set(zip(red.tolist(), blue.tolist(), strict=True))) == 6
    assert torch.allclose(seen[torch.arange(MEMORIES), :, :, :, blue], torch.tensor(0.5))


def test_no_memory_or_about_as_many_as_were_asked_for_are_warped() -> None:
    data = load_dataset("glyphs", "train")
    plain = data.sample(MEMORIES, COUNT, seeded())
    assert torch.equal(Warped(data, share=0.0).sample(MEMORIES, COUNT, seeded()), plain)
    seen = Warped(data, share=0.5).sample(MEMORIES, COUNT, seeded())
    assert seen.shape == plain.shape
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
    changed = (seen != plain).flatten(1).any(1)
    assert MEMORIES / 4 < changed.sum() < MEMORIES * 3 / 4
    assert not (seen == plain)[changed].all(-1).any()
    assert torch.equal(Warped(data, share=1.0).pool(7), data.pool(7))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"data.warped: saw 0.5 for patterns of text; expected it for images alone"):
        Warped(load_dataset("short-texts", "train"), share=0.5)
    assert Warped(load_dataset("glyphs", "train"), share=0.5).layout == Layout((IMAGE,))
