"""Pictures of the demo: unseen test glyphs, or the user's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from attractor_server.errors import SettingsError
from attractor_server.fields import Layout
from attractor_server.training.datasets import IMAGE, load_dataset
from attractor_server.training.datasets.glyphs import SIDE
from attractor_server.training.distortions import distort
from attractor_server.training.recipe import CueTable

MEMORIES = 16
ITEMS = 32
BLOCK = CueTable(kind="block", amount=14)
"""Distortion of a cue: a dark block over a quarter of it, at an unknown place"""


@dataclass(frozen=True)
class Plan:
    """Data of one memory: stored patterns, their cues, and cues of unseen ones; (n, 784) each, dark 0 to bright 1."""

    stored: Tensor
    cues: Tensor
    unseen_cues: Tensor


def glyph_plans(seed: int = 0) -> Sequence[Plan]:
    """Plan 16 memories of 32 glyphs, of characters that no training glyph shows; in one memory no character twice."""
    generator = Generator().manual_seed(seed)
    patterns = load_dataset("glyphs", "test").sample(MEMORIES, 2 * ITEMS, generator)
    return [_make_plan(stored, unseen, generator) for stored, unseen in (chosen.chunk(2) for chosen in patterns)]


def picture_plans(paths: Sequence[Path], seed: int = 0) -> Sequence[Plan]:
    """Plan memories of up to 32 of the pictures, with as many test glyphs that are not stored.

    Raises:
        SettingsError: a file is no picture that can be read.
    """
    generator = Generator().manual_seed(seed)
    stored = torch.stack([_read_picture(path) for path in paths])
    glyphs = load_dataset("glyphs", "test")
    return [_make_plan(part, glyphs.sample(1, len(part), generator)[0], generator) for part in stored.split(ITEMS)]


def _make_plan(stored: Tensor, unseen: Tensor, generator: Generator) -> Plan:
    layout = Layout((IMAGE,))
    return Plan(stored, *(distort(x[None], layout, [BLOCK], generator).values[0] for x in (stored, unseen)))


def _read_picture(path: Path) -> Tensor:
    """Read the middle square of a picture in grey, as large as the model's images."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            grey = ImageOps.fit(ImageOps.exif_transpose(picture).convert("L"), (SIDE, SIDE))
    except (OSError, UnidentifiedImageError) as error:
        raise SettingsError(f"image: saw {str(path)!r}, which cannot be read as a picture: {error}") from error
    return torch.from_numpy(np.asarray(grey, np.float32)).flatten() / 255
