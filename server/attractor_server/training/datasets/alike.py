"""Augmentation by likeness: a data set's patterns, drawn towards one another."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attractor_server.errors import SettingsError
from attractor_server.fields import Layout
from attractor_server.training.datasets.source import Source

NEAREST = 0.75
"""Largest share of the way towards one another"""


@dataclass(frozen=True)
class Alike:
    """A source of which the patterns of some memories are drawn towards some of them, all of one memory equally far.

    Their gradients are then alike, too, and one large step for all of them would go too far.

    Raises:
        SettingsError: its patterns have text, of which there is nothing in between.
    """

    data: Source
    share: float
    """Share of the memories"""
    centres: int = 1
    """Patterns of a memory that others are drawn towards"""

    def __post_init__(self) -> None:
        texts = [field.name for field in self.layout.fields if field.has_codes]
        if texts:
            raise SettingsError(
                f"data.alike: saw {self.share} for text ({', '.join(texts)}); expected it for numbers alone"
            )

    @property
    def layout(self) -> Layout:
        """The fields of the data."""
        return self.data.layout

    @property
    def drifts(self) -> Tensor | None:
        """Drifts of the data."""
        return self.data.drifts

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        """Return patterns (memories, count, values); those of one memory can still be told apart."""
        patterns = self.data.sample(memories, count, generator)
        chosen, near = torch.rand(2, memories, 1, 1, generator=generator, device=generator.device)
        towards = patterns[:, torch.arange(count, device=patterns.device) % self.centres]
        return patterns.lerp(towards, torch.where(chosen < self.share, NEAREST * near, 0.0))

    def pool(self, limit: int) -> Tensor:
        """Return patterns of the data, as they are."""
        return self.data.pool(limit)

    def to(self, device: torch.device) -> "Alike":
        """Move to a device; see `Source.to`."""
        return Alike(self.data.to(device), self.share, self.centres)
