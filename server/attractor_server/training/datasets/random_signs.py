"""Patterns of independent signs: nothing to learn about them, so what is recalled is what was written."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomSigns:
    """A source of patterns whose entries are −1 or 1, each with probability one half."""

    entries: int

    def sample(self, memories: int, count: int, generator: torch.Generator) -> Tensor:
        """Return new patterns (memories, count, entries) float32, on the generator's device."""
        shape = (memories, count, self.entries)
        return torch.randint(0, 2, shape, generator=generator, device=generator.device).float() * 2 - 1
