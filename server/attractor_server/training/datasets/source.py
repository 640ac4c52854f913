"""Sources of training patterns, of one or several fields, in users' units."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from attractor_server.fields import Field, Layout
from attractor_server.training.datasets.random_signs import RandomSigns


class Source(Protocol):
    """Endless supply of patterns."""

    @property
    def layout(self) -> Layout:
        """Fields of the patterns."""

    @property
    def drifts(self) -> Tensor | None:
        """Drifts of other wordings (n, values of a field), where the source has such pairs; see `drifts.py`."""

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        """Return patterns (memories, count, values); those of one memory can be told apart."""

    def pool(self, limit: int) -> Tensor:
        """Return at most `limit` different patterns (n, values), always the same."""

    def to(self, device: torch.device) -> "Source":
        """Move to a device, on which its patterns then lie, as its generators must."""


@dataclass(frozen=True)
class Dataset:
    """Patterns (n, values), with the number of the class of each, ascending."""

    layout: Layout
    patterns: Tensor
    classes: Tensor
    drifts: Tensor | None = None

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        """Return patterns (memories, count, values); those of one memory are of different classes."""
        size = int(self.classes.max()) + 1
        members = torch.bincount(self.classes, minlength=size)
        first = members.cumsum(0) - members
        chosen = torch.rand(memories, size, generator=generator, device=generator.device).argsort(1)[:, :count]
        within = torch.rand(chosen.shape, generator=generator, device=generator.device) * members[chosen]
        return self.patterns[first[chosen] + within.long()]

    def pool(self, limit: int) -> Tensor:
        """Return patterns evenly from the whole set."""
        return self.patterns[:: -(-len(self.patterns) // limit)]

    def to(self, device: torch.device) -> "Dataset":
        """Move to a device; see `Source.to`."""
        drifts = None if self.drifts is None else self.drifts.to(device)
        return replace(self, patterns=self.patterns.to(device), classes=self.classes.to(device), drifts=drifts)


@dataclass(frozen=True)
class Signs:
    """Random signs in one field."""

    layout: Layout
    signs: RandomSigns
    drifts: Tensor | None = None

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        """Return new patterns each time."""
        return self.signs.sample(memories, count, generator)

    def pool(self, limit: int) -> Tensor:
        """Return patterns that are always the same."""
        return self.signs.sample(1, limit, Generator().manual_seed(0))[0]

    def to(self, device: torch.device) -> "Signs":
        """Return itself: its patterns are made where the generator is."""
        return self


@dataclass(frozen=True)
class Pairs:
    """Two different patterns of a data set, as the fields `key` and `value`."""

    data: Dataset

    @property
    def layout(self) -> Layout:
        """Key and value, both as the data set has them."""
        (one,) = self.data.layout.fields
        return Layout(tuple(Field(name=name, kind=one.kind, shape=one.shape) for name in ("key", "value")))

    @property
    def drifts(self) -> Tensor | None:
        """Drifts of the data set, for key and value alike."""
        return self.data.drifts

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        """Return patterns (memories, count, 2·values); in one memory no class stands twice."""
        return torch.cat(self.data.sample(memories, 2 * count, generator).chunk(2, 1), -1)

    def pool(self, limit: int) -> Tensor:
        """Return each pattern beside one from half the set away."""
        patterns = self.data.pool(limit)
        return torch.cat([patterns, patterns.roll(len(patterns) // 2, 0)], -1)

    def to(self, device: torch.device) -> "Pairs":
        """Move to a device; see `Source.to`."""
        return Pairs(self.data.to(device))
