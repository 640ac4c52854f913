"""Slot stores: they keep every item, whole or coded, and look up the one nearest to a cue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CLIPS = (2.0, 2.5, 3.0, 4.0, 6.0, 10.0)
"""Standard deviations where a quantiser may end."""


class Codec(Protocol):
    """Format of stored items."""

    @property
    def name(self) -> str:
        """Name in the tables."""

    def bytes_per_item(self, d: int) -> int:
        """Return the bytes of one item (d,), without parameters that are fitted once for all memories."""

    def round_trip(self, items: Tensor) -> Tensor:
        """Encode and decode the items (…, d)."""


@dataclass(frozen=True)
class Slots:
    """A store that keeps every item by a codec. Its answers and its comparisons know only what it kept."""

    codec: Codec

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"slots, {self.codec.name}"

    def bytes_per_memory(self, n: int, d: int) -> int:
        """Return the bytes of all items' codes."""
        return n * self.codec.bytes_per_item(d)

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """Return the stored item nearest to each cue (memories, m, d), compared on known entries where given."""
        kept = self.codec.round_trip(items)
        chosen = compute_squared_distances(cues, kept, known).argmin(-1, keepdim=True)
        return kept.gather(-2, chosen.expand(*cues.shape))


@dataclass(frozen=True)
class Float32:
    """Items as they are."""

    @property
    def name(self) -> str:
        """Name in the tables."""
        return "float32"

    def bytes_per_item(self, d: int) -> int:
        """Return four bytes for each entry."""
        return 4 * d

    def round_trip(self, items: Tensor) -> Tensor:
        """Return the items themselves."""
        return items


@dataclass(frozen=True)
class Int8:
    """Entries from −127 to 127, and a scale for each item."""

    @property
    def name(self) -> str:
        """Name in the tables."""
        return "int8"

    def bytes_per_item(self, d: int) -> int:
        """Return one byte for each entry, and four for the scale."""
        return d + 4

    def round_trip(self, items: Tensor) -> Tensor:
        """Return each entry within half of 1 / 127 of the item's largest."""
        scale = items.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(items.dtype).tiny) / 127
        return (items / scale).round() * scale


@dataclass(frozen=True)
class Pca:
    """Principal components of the training data, each quantised on the scale it has there.

    Mean, components and scales are shared by all memories and not counted: d·(k + 1) + k floats.
    """

    mean: Tensor
    """(d,)"""
    components: Tensor
    """(k, d), orthonormal rows"""
    largest: Tensor
    """(k,): where each component's quantiser ends"""
    bits: int
    """Bits of a component."""

    @classmethod
    def fit(cls, patterns: Tensor, *, budget_bytes: int, bits: int = 8) -> "Pca":  # (n, d)
        """Fit as many components to training patterns as an item's budget holds."""
        k = min(8 * budget_bytes // bits, *patterns.shape)
        mean = patterns.mean(0)
        components = torch.linalg.svd(patterns - mean, full_matrices=False)[2][:k]
        codes = (patterns - mean) @ components.T
        deviation = codes.square().mean(0).sqrt().clamp_min(torch.finfo(codes.dtype).eps)
        fitted = [cls(mean, components, clip * deviation, bits) for clip in CLIPS]
        return min(fitted, key=lambda one: _error(one, patterns))

    @classmethod
    def tune(cls, patterns: Tensor, *, budget_bytes: int, bits: Sequence[int] = (8, 6, 4, 3, 2)) -> "Pca":
        """Fit with the number of bits, and so of components, that loses least of training patterns (n, d)."""
        fitted = [cls.fit(patterns, budget_bytes=budget_bytes, bits=one) for one in bits]
        return min(fitted, key=lambda one: _error(one, patterns))

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"{len(self.components)} principal components of {self.bits} bits"

    def bytes_per_item(self, d: int) -> int:
        """Return the bytes of the codes, rounded up."""
        return -(-len(self.components) * self.bits // 8)

    def round_trip(self, items: Tensor) -> Tensor:
        """Return the items' parts along the components, on a grid of an odd number of values around the mean."""
        step = self.largest / (2 ** (self.bits - 1) - 1)
        codes = (items - self.mean) @ self.components.T
        kept: Tensor = (codes.clamp(-self.largest, self.largest) / step).round() * step
        return self.mean + kept @ self.components


def find_nearest(cues: Tensor, items: Tensor) -> Tensor:
    """Return for each cue (…, n, d) the index of the nearest of its memory's items (…, m, d)."""
    return torch.cdist(cues, items).argmin(-1)


def look_up(cues: Tensor, items: Tensor) -> Tensor:
    """Return the item nearest to each cue, (…, n, d)."""
    chosen = find_nearest(cues, items)[..., None].expand(*cues.shape)
    return items.gather(-2, chosen)


def compute_squared_distances(cues: Tensor, items: Tensor, known: Tensor | None = None) -> Tensor:
    """Return the distances (memories, m, n) of cues (memories, m, d) to items (memories, n, d), over known entries."""
    keep = torch.ones_like(cues) if known is None else known.to(cues.dtype)
    masked = keep * cues
    # Σ keep·(cue − item)², multiplied out: no tensor of memories × m × n × d.
    return masked.square().sum(-1, keepdim=True) - 2 * masked @ items.mT + keep @ items.square().mT


def _error(codec: Codec, patterns: Tensor) -> float:
    return float((codec.round_trip(patterns) - patterns).square().mean())
