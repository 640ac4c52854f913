"""Cues made from patterns by distortion, for training and evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attractor_server.errors import SettingsError
from attractor_server.fields import Field, Layout
from attractor_server.training.recipe import CueKind, CueTable

BACKGROUND = 0.0
"""Value of a block over an image: dark"""


@dataclass(frozen=True)
class Cues:
    """Distorted patterns, NaN where an entry is missing, and which entries are held, (memories, patterns, values)."""

    values: Tensor
    known: Tensor

    def to(self, device: torch.device) -> "Cues":
        """Move to a device."""
        return Cues(self.values.to(device), self.known.to(device))


def distort(patterns: Tensor, layout: Layout, tables: Sequence[CueTable], generator: Generator) -> Cues:
    """Return a cue for each pattern (memories, patterns, values), distorted in a way drawn by the tables' shares.

    The generator has to be on the device of the patterns.
    """
    shares = torch.tensor([table.share for table in tables], device=generator.device)
    chosen = torch.multinomial(shares, patterns[..., 0].numel(), replacement=True, generator=generator)
    chosen = chosen.reshape(*patterns.shape[:-1], 1)
    values, known = patterns, torch.zeros_like(patterns, dtype=torch.bool)
    for number, table in enumerate(tables):
        made = _apply(patterns, layout, table, generator)
        values = torch.where(chosen == number, made.values, values)
        known = torch.where(chosen == number, made.known, known)
    return Cues(values, known)


def _apply(patterns: Tensor, layout: Layout, table: CueTable, generator: Generator) -> Cues:
    values, touched = patterns.clone(), torch.zeros_like(patterns, dtype=torch.bool)
    for field, span in layout.spans:
        if table.field in ("", field.name):
            values[..., span], touched[..., span] = _WAYS[table.kind](patterns[..., span], field, table, generator)
    told = _uniform((*patterns.shape[:-1], 1), generator) < table.told
    return Cues(values, told & ~touched)


def draw_blocks(shape: torch.Size, image: tuple[int, ...], generator: Generator, block: int) -> Tensor:
    """Return a mask of the entries of images (…, height·width·channels) under a square block at a random place."""
    places = []
    for length in image[:2]:
        start = torch.randint(length - block + 1, shape[:-1], generator=generator, device=generator.device)[..., None]
        line = torch.arange(length, device=generator.device)
        places.append((line >= start) & (line < start + block))
    covered = places[0][..., :, None] & places[1][..., None, :]
    return covered.flatten(-2).repeat_interleave(shape[-1] // (image[0] * image[1]), -1)


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _cover_block(x: Tensor, field: Field, table: CueTable, generator: Generator) -> tuple[Tensor, Tensor]:
    if not field.traits.has_area:
        raise SettingsError(f"cues.kind: saw 'block' for the field {field.name!r}; expected an image field")
    covered = draw_blocks(x.shape, field.shape, generator, round(table.amount))
    return x.masked_fill(covered, BACKGROUND), covered


def _add_noise(x: Tensor, field: Field, table: CueTable, generator: Generator) -> tuple[Tensor, Tensor]:
    noise = torch.randn(x.shape, generator=generator, device=generator.device)
    return x + table.amount * noise, torch.ones_like(x, dtype=torch.bool)


def _flip_signs(x: Tensor, field: Field, table: CueTable, generator: Generator) -> tuple[Tensor, Tensor]:
    flipped = _uniform(x.shape, generator) < table.amount
    return torch.where(flipped, -x, x), torch.ones_like(x, dtype=torch.bool)


def _drop_entries(x: Tensor, field: Field, table: CueTable, generator: Generator) -> tuple[Tensor, Tensor]:
    """Drop exactly that share of the entries of each pattern."""
    order = _uniform(x.shape, generator).argsort(-1)
    gone = order < round(table.amount * x.shape[-1])
    return x.masked_fill(gone, torch.nan), gone


def _drop_frames(x: Tensor, field: Field, table: CueTable, generator: Generator) -> tuple[Tensor, Tensor]:
    """Drop exactly that share of the rows of each pattern."""
    frames = field.shape[0]
    order = _uniform((*x.shape[:-1], frames), generator).argsort(-1)
    gone = (order < round(table.amount * frames)).repeat_interleave(x.shape[-1] // frames, -1)
    return x.masked_fill(gone, torch.nan), gone


def _drop_field(x: Tensor, field: Field, table: CueTable, generator: Generator) -> tuple[Tensor, Tensor]:
    return torch.full_like(x, torch.nan), torch.ones_like(x, dtype=torch.bool)


_WAYS: Mapping[CueKind, Callable[[Tensor, Field, CueTable, Generator], tuple[Tensor, Tensor]]] = {
    "block": _cover_block,
    "noise": _add_noise,
    "flips": _flip_signs,
    "missing": _drop_entries,
    "frames": _drop_frames,
    "field": _drop_field,
}
