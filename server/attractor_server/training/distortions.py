"""How cues are made from patterns: what a memory is trained and measured on."""

from typing import TypeAlias

import torch
from torch import Generator, Tensor

BACKGROUND = -1.0
BLOCK = 14
SIGMA = 0.6

Shape: TypeAlias = tuple[int, int]


def blocks(shape: torch.Size, side: Shape, generator: Generator, block: int = BLOCK) -> Tensor:
    """Which entries of images (…, height·width) a square block at a random place covers, bool."""
    height, width = side
    places = []
    for length in side:
        start = torch.randint(length - block + 1, shape[:-1], generator=generator)[..., None]
        line = torch.arange(length)
        places.append((line >= start) & (line < start + block))
    covered = places[0][..., :, None] & places[1][..., None, :]
    return covered.reshape(*shape[:-1], height * width)


def occlude(x: Tensor, side: Shape, generator: Generator, block: int = BLOCK) -> Tensor:
    """Images (…, height·width) with a block of background over them; where it lies is not told."""
    return torch.where(blocks(x.shape, side, generator, block), BACKGROUND, x)


def add_noise(x: Tensor, generator: Generator, sigma: float = SIGMA) -> Tensor:
    """Patterns with Gaussian noise on every entry."""
    return x + sigma * torch.randn(x.shape, generator=generator)
