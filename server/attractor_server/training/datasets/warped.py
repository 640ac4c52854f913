"""Augmentation of images: mirrored, rotated, sheared and shrunk, in other colours."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from attractor_server.errors import SettingsError
from attractor_server.fields import Layout
from attractor_server.training.datasets.source import Source

TURN, SHEAR, SHRINK = 0.15, 0.2, (0.95, 1.15)
"""Radians at most, either way; at most, either way; the least and the most"""


@dataclass(frozen=True)
class Warped:
    """A source of images in which those of some memories are warped, all of one memory alike.

    So they differ from one another as much as before. Colour channels are permuted.

    Raises:
        SettingsError: its patterns are no images.
    """

    data: Source
    share: float
    """Share of the memories"""

    def __post_init__(self) -> None:
        if [field.traits.has_area for field in self.layout.fields] != [True]:
            kinds = ", ".join(field.kind for field in self.layout.fields)
            raise SettingsError(f"data.warped: saw {self.share} for patterns of {kinds}; expected it for images alone")

    @property
    def layout(self) -> Layout:
        """The fields of the data."""
        return self.data.layout

    @property
    def drifts(self) -> Tensor | None:
        """Drifts of the data."""
        return self.data.drifts

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        """Return patterns (memories, count, values); those of one memory can be told apart."""
        patterns = self.data.sample(memories, count, generator)
        warped = torch.rand(memories, generator=generator, device=generator.device) < self.share
        height, width = self.layout.fields[0].shape[:2]
        images = patterns.view(memories, count, height, width, -1).movedim(-1, 2).flatten(1, 2)
        grid = affine_grid(draw_maps(memories, generator), [memories, 1, height, width], align_corners=False)
        moved = grid_sample(images, grid, padding_mode="border", align_corners=False)
        moved = moved.unflatten(1, (count, -1)).movedim(2, -1)  # (memories, count, height, width, colours)
        exchanged = torch.rand(memories, moved.shape[-1], generator=generator, device=generator.device).argsort(1)
        moved = moved.gather(-1, exchanged[:, None, None, None].expand_as(moved)).reshape(patterns.shape)
        return torch.where(warped[:, None, None], moved, patterns)

    def pool(self, limit: int) -> Tensor:
        """Return patterns of the data, as they are."""
        return self.data.pool(limit)

    def to(self, device: torch.device) -> "Warped":
        """Move to a device; see `Source.to`."""
        return Warped(self.data.to(device), self.share)


def draw_maps(count: int, generator: Generator) -> Tensor:
    """Draw affine maps from where a value goes to where it comes from, (count, 2, 3)."""
    device = generator.device

    def between(least: float, most: float) -> Tensor:
        return least + (most - least) * torch.rand(count, generator=generator, device=device)

    angle, shear, shrink = between(-TURN, TURN), between(-SHEAR, SHEAR), between(*SHRINK)
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(count, 2, 2)
    sheared = torch.eye(2, device=device).repeat(count, 1, 1)
    sheared[:, 0, 1] = shear
    mirrored = torch.diag_embed(torch.randint(2, (count, 2), generator=generator, device=device) * 2.0 - 1.0)
    crossed = torch.randint(2, (count,), generator=generator, device=device).bool()
    mirrored = torch.where(crossed[:, None, None], mirrored.flip(1), mirrored)
    return torch.cat([mirrored @ turned @ sheared * shrink[:, None, None], torch.zeros(count, 2, 1, device=device)], -1)
