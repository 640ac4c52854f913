"""Input transforms: between values as users have them and entries as a network has them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Hold: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """Coordinates along principal components, each divided by its spread.

    A gradient step in these is a step by the inverse of the data's covariance in the values themselves: no direction
    waits for another, and none overshoots.
    """

    components: Tensor
    """(values, entries), orthonormal columns"""
    spread: Tensor
    """(entries,)"""

    def encode(self, values: Tensor) -> Tensor:
        """(…, values) to (…, entries)."""
        return (values @ self.components) / self.spread

    def decode(self, x: Tensor) -> Tensor:
        """(…, entries) to (…, values)."""
        return (x * self.spread) @ self.components.T


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Value by value v·scale + shift, both (values,); then, where there is one, the whitening."""

    scale: Tensor
    shift: Tensor
    whitening: Whitening | None = None

    def encode(self, values: Tensor) -> Tensor:
        """User units (…, values) to network units (…, entries)."""
        scaled = values * self.scale + self.shift
        return scaled if self.whitening is None else self.whitening.encode(scaled)

    def decode(self, x: Tensor) -> Tensor:
        """Network units (…, entries) to user units (…, values)."""
        scaled = x if self.whitening is None else self.whitening.decode(x)
        return (scaled - self.shift) / self.scale

    def hold(self, values: Tensor, known: Tensor) -> Hold:
        """What puts the known values back into any x, and leaves the others; both (…, values), `known` bool."""
        if self.whitening is None:
            held = self.encode(values)
            return lambda x: torch.where(known, held, x)
        return lambda x: self.encode(torch.where(known, values, self.decode(x)))
