"""Binary Hopfield networks: three rules for the weights, and reads by sign."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from attractor_server.training.baselines.rival import keep_known

Rule: TypeAlias = Callable[[Tensor], Tensor]
"""From patterns ±1 (memories, n, d) to symmetric weights (memories, d, d), the diagonal included."""


def hebb(items: Tensor) -> Tensor:
    """Return the mean outer product of the patterns, in the field's scale (n / d on the diagonal)."""
    return items.mT @ items / items.shape[-1]


def pseudo_inverse(items: Tensor) -> Tensor:
    """Return the projection on the span of the patterns (Personnaz et al. 1986): each is an eigenvector of 1."""
    inverse: Tensor = torch.linalg.pinv(items)
    return inverse @ items


def storkey(items: Tensor) -> Tensor:
    """Return weights by Storkey's (1997) rule, one pattern ξ after another, each without its share in its local fields.

    With h_ij = Σ_{k ≠ i, j} W_ik ξ_k, each pattern adds (ξ_i ξ_j − ξ_i h_ji − h_ij ξ_j) / d.
    """
    memories, _, d = items.shape
    weights = items.new_zeros(memories, d, d)
    for pattern in items.unbind(1):
        field = (weights @ pattern[..., None])[..., 0] - _diagonal(weights) * pattern
        cross = _outer(pattern, field)
        # h_ij = field_i − W_ij ξ_j where i ≠ j, and ξ_j² = 1: both of the terms left out come back as W_ij.
        weights = weights + (_outer(pattern, pattern) - cross - cross.mT + 2 * damp_diagonal(weights, 0.0)) / d
    return weights


def damp_diagonal(weights: Tensor, kept: float) -> Tensor:
    """Return the weights (memories, d, d) with the self-couplings times `kept`: 1 leaves them, 0 removes them."""
    return weights - (1 - kept) * torch.diag_embed(_diagonal(weights))


class Reader(Protocol):
    """A way from cues (memories, m, d) to recalled patterns (memories, m, d), by weights (memories, d, d)."""

    def read(self, weights: Tensor, cues: Tensor, known: Tensor | None) -> Tensor:
        """Return the pattern where each cue leads, ±1 in every entry; known entries are clamped on the way."""


@dataclass(frozen=True, kw_only=True)
class Signs:
    """Reads in which a unit takes the sign of its field, and stays as it is where that is 0.

    Synchronous reads with partly kept self-couplings end nearest to the patterns up to half the dimension; far above
    that asynchronous ones at least do not oscillate.
    """

    order: Literal["synchronous", "asynchronous"] = "synchronous"
    """All units at once, or one after the other, in a new random order (the same for all cues) in each sweep."""
    self_coupling: float = 0.0
    """Share of the diagonal that is kept."""
    sweeps: int = 20
    seed: int = 0

    def read(self, weights: Tensor, cues: Tensor, known: Tensor | None) -> Tensor:
        """Return the fixed point, or where the last sweep ended."""
        weights = damp_diagonal(weights, self.self_coupling)
        generator = torch.Generator().manual_seed(self.seed)
        x = binary(cues)
        for _ in range(self.sweeps):
            before, x = x, self._sweep(weights, x, generator)
            x = keep_known(x, cues, known)
            if torch.equal(x, before):
                break
        return x

    def _sweep(self, weights: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.order == "synchronous":
            return _signs(x @ weights, x)
        x = x.clone()
        for unit in torch.randperm(x.shape[-1], generator=generator).tolist():
            field = (x @ weights[:, :, unit, None])[..., 0]
            x[..., unit] = _signs(field, x[..., unit])
        return x


@dataclass(frozen=True)
class Hopfield:
    """A rule for the weights and a way to read them; items and cues are ±1, or 0 where a cue has no value."""

    name: str
    rule: Rule
    reader: Reader

    def bytes_per_memory(self, n: int, d: int) -> int:
        """Return the bytes of symmetric float32 weights with their diagonal, whatever the number of items."""
        return 4 * (d * (d + 1) // 2)

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """Return the patterns (memories, m, d), ±1, where the cues lead; known entries are clamped."""
        return self.reader.read(self.rule(items), cues, known)


def binary(x: Tensor) -> Tensor:
    """Return ±1 by the sign; 0 counts as +1."""
    return _signs(x, torch.ones_like(x))


def _signs(field: Tensor, x: Tensor) -> Tensor:
    return torch.where(field == 0, x, field.sign())


def _diagonal(weights: Tensor) -> Tensor:
    return weights.diagonal(dim1=-2, dim2=-1)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]
