"""Input transforms: between encoded values and the entries that a network has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Hold: TypeAlias = Callable[[Tensor], Tensor]
"""Puts what is known back into any x (…, entries)"""
Pull: TypeAlias = Callable[[Tensor], Tensor]
"""The gradient by x (…, entries) of half the squared distance from what is known"""


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

    def pull_back(self, gradient: Tensor) -> Tensor:
        """A gradient by values (…, values) as one by x (…, entries)."""
        return (gradient @ self.components) * self.spread


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Value by value v·scale + shift, both (values,); then, where there is one, the whitening.

    A missing value (NaN) becomes 0 before the whitening, which is the mean of the training data where the shift
    centres them.
    """

    scale: Tensor
    shift: Tensor
    whitening: Whitening | None = None

    def encode(self, values: Tensor) -> Tensor:
        """Encoded values (…, values) to network units (…, entries)."""
        scaled = self._scaled(values)
        return scaled if self.whitening is None else self.whitening.encode(scaled)

    def decode(self, x: Tensor) -> Tensor:
        """Network units (…, entries) to encoded values (…, values)."""
        return (self._unwhitened(x) - self.shift) / self.scale

    def hold(self, values: Tensor, known: Tensor) -> Hold:
        """What puts the known values back into any x, and leaves the others; both (…, values), `known` bool."""
        if self.whitening is None:
            held = self.encode(values)
            return lambda x: torch.where(known, held, x)
        return lambda x: self.encode(torch.where(known, values, self.decode(x)))

    def pull(self, values: Tensor, known: Tensor) -> Pull:
        """What the proximity term ½‖known ⊙ (v − values)‖² descends by, v and values after scale and shift."""
        target = self._scaled(values)

        def gradient(x: Tensor) -> Tensor:
            gap = (self._unwhitened(x) - target) * known
            return gap if self.whitening is None else self.whitening.pull_back(gap)

        return gradient

    def _scaled(self, values: Tensor) -> Tensor:
        scaled = values * self.scale + self.shift
        return scaled.masked_fill(scaled.isnan(), 0)

    def _unwhitened(self, x: Tensor) -> Tensor:
        return x if self.whitening is None else self.whitening.decode(x)
