"""Cues made from patterns by distortion, for training and evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attractor_server.errors import SettingsError
from attractor_server.fields import Field, Layout
from attractor_server.training.datasets.drifts import apply_drifts, draw_drifts
from attractor_server.training.recipe import CueKind, CueTable, DistortionTable

BACKGROUND = 0.0
"""Value of a block over an image, and beyond its edges: dark"""
BRIGHTNESS = 0.4
"""Largest share of the lost contrast that comes back as light all over an image"""


@dataclass(frozen=True)
class Cues:
    """Distorted patterns, NaN where an entry is missing, and which entries are held, (memories, patterns, values)."""

    values: Tensor
    known: Tensor

    def to(self, device: torch.device) -> "Cues":
        """Move to a device."""
        return Cues(self.values.to(device), self.known.to(device))


def distort(
    patterns: Tensor,
    layout: Layout,
    tables: Sequence[CueTable],
    generator: Generator,
    *,
    drifts: Tensor | None = None,
) -> Cues:
    """Return a cue for each pattern (memories, patterns, values), distorted in a way drawn by the tables' shares.

    The generator has to be on the device of the patterns, and so have drifts (n, values of a field), which only cues
    that drift need: those of the patterns' source.
    """
    shares = torch.tensor([table.share for table in tables], device=generator.device)
    chosen = torch.multinomial(shares, patterns[..., 0].numel(), replacement=True, generator=generator)
    chosen = chosen.reshape(*patterns.shape[:-1], 1)
    values, known = patterns, torch.zeros_like(patterns, dtype=torch.bool)
    for number, table in enumerate(tables):
        made = _apply(patterns, layout, table, generator, drifts)
        values = torch.where(chosen == number, made.values, values)
        known = torch.where(chosen == number, made.known, known)
    return Cues(values, known)


def _apply(patterns: Tensor, layout: Layout, table: CueTable, generator: Generator, drifts: Tensor | None) -> Cues:
    values, touched = patterns.clone(), torch.zeros_like(patterns, dtype=torch.bool)
    for step in (table, *table.then):
        for field, span in layout.spans:
            if step.field in ("", field.name):
                draw = _Draw(field, step, generator, drifts)
                values[..., span], there = _WAYS[step.kind](values[..., span], draw)
                touched[..., span] |= there
    told = _uniform((*patterns.shape[:-1], 1), generator) < table.told
    return Cues(values, told & ~touched)


@dataclass(frozen=True)
class _Draw:
    """Distortion of a field, and what it is drawn by."""

    field: Field
    table: DistortionTable
    generator: Generator
    drifts: Tensor | None

    @property
    def amount(self) -> float:
        return self.table.amount

    def check_area(self) -> None:
        if not self.field.traits.has_area:
            seen = f"saw {self.table.kind!r} for the field {self.field.name!r}"
            raise SettingsError(f"cues.kind: {seen}; expected an image field")


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


def _everywhere(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def _leave(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    return x, torch.zeros_like(x, dtype=torch.bool)


def _cover_block(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    draw.check_area()
    covered = draw_blocks(x.shape, draw.field.shape, draw.generator, round(draw.amount))
    return x.masked_fill(covered, BACKGROUND), covered


def _cover_rows(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Cover so many rows, one below another."""
    draw.check_area()
    height, count = draw.field.shape[0], round(draw.amount)
    start = torch.randint(height - count + 1, x.shape[:-1], generator=draw.generator, device=draw.generator.device)
    line = torch.arange(height, device=x.device)
    covered = (line >= start[..., None]) & (line < start[..., None] + count)
    covered = covered.repeat_interleave(x.shape[-1] // height, -1)
    return x.masked_fill(covered, BACKGROUND), covered


def _add_noise(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    noise = torch.randn(x.shape, generator=draw.generator, device=draw.generator.device)
    return x + draw.amount * noise, _everywhere(x)


def _shift(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Move images by whole pixels along both axes, each as likely; what comes in at an edge is dark."""
    draw.check_area()
    height, width = draw.field.shape[:2]
    rows, columns = (_shift_line(x.shape[:-1], length, draw) for length in (height, width))
    inside = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[..., None, :]
    places = width * rows.clamp(0, height - 1)[..., :, None] + columns.clamp(0, width - 1)[..., None, :]
    pixels = x.unflatten(-1, (height * width, -1))
    moved = pixels.gather(-2, places.flatten(-2)[..., None].expand_as(pixels))
    return moved.masked_fill(~inside.flatten(-2)[..., None], BACKGROUND).flatten(-2), _everywhere(x)


def _shift_line(shape: torch.Size, length: int, draw: _Draw) -> Tensor:
    """Return the place along an axis from which each value comes, (*shape, length)."""
    most = round(draw.amount)
    by = torch.randint(-most, most + 1, shape, generator=draw.generator, device=draw.generator.device)
    return torch.arange(length, device=by.device) - by[..., None]


def _fade(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Keep that share of the contrast, and add some light all over."""
    lost = max(0.0, 1 - draw.amount)
    light = BRIGHTNESS * lost * _uniform((*x.shape[:-1], 1), draw.generator)
    return draw.amount * x + light, _everywhere(x)


def _flip_signs(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    flipped = _uniform(x.shape, draw.generator) < draw.amount
    return torch.where(flipped, -x, x), _everywhere(x)


def _drop_entries(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Drop exactly that share of the entries of each pattern."""
    order = _uniform(x.shape, draw.generator).argsort(-1)
    gone = order < round(draw.amount * x.shape[-1])
    return x.masked_fill(gone, torch.nan), gone


def _drop_frames(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Drop exactly that share of the rows of each pattern."""
    frames = draw.field.shape[0]
    order = _uniform((*x.shape[:-1], frames), draw.generator).argsort(-1)
    gone = (order < round(draw.amount * frames)).repeat_interleave(x.shape[-1] // frames, -1)
    return x.masked_fill(gone, torch.nan), gone


def _drop_field(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    return torch.full_like(x, torch.nan), _everywhere(x)


def _drift(x: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Turn patterns as far from themselves as other wordings of texts are; missing entries stay missing."""
    if draw.drifts is None or draw.drifts.shape[-1] != x.shape[-1]:
        seen = f"saw 'drift' for the field {draw.field.name!r}"
        raise SettingsError(f"cues.kind: {seen}; expected data with other wordings of texts, as sentences and verses")
    drawn = draw_drifts(draw.drifts, x.shape[:-1], draw.generator)
    turned = apply_drifts(x.nan_to_num(), draw.amount * drawn)
    return torch.where(x.isnan(), x, turned), _everywhere(x)


_WAYS: Mapping[CueKind, Callable[[Tensor, _Draw], tuple[Tensor, Tensor]]] = {
    "clean": _leave,
    "block": _cover_block,
    "rows": _cover_rows,
    "noise": _add_noise,
    "shift": _shift,
    "contrast": _fade,
    "flips": _flip_signs,
    "missing": _drop_entries,
    "frames": _drop_frames,
    "field": _drop_field,
    "drift": _drift,
}
"""By kind: distorted values (memories, patterns, values of a field), and where they may be wrong"""
