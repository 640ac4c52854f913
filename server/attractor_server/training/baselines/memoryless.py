"""Baselines without a memory, which guess from the cue and the training data alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = (1.0, 10.0, 100.0, 1000.0)
SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
_CHUNK_FLOATS = 1 << 25
_JITTER = 1e-6


@dataclass(frozen=True)
class Ridge:
    """A memoryless denoiser: the best linear map from cues to patterns of the training data."""

    weights: Tensor
    """(d + 1, d), the last row for a constant"""

    @classmethod
    def fit(cls, cues: Tensor, patterns: Tensor, *, penalty: float = 10.0) -> "Ridge":  # both (n, d)
        """Fit by least squares with a penalty on the squared weights."""
        inputs = _with_constant(cues)
        gram = inputs.T @ inputs + penalty * torch.eye(inputs.shape[1])
        return cls(torch.linalg.solve(gram, inputs.T @ patterns))

    @classmethod
    def tune(
        cls,
        training: tuple[Tensor, Tensor],
        held_out: tuple[Tensor, Tensor],
        *,
        penalties: Sequence[float] = PENALTIES,
    ) -> "Ridge":
        """Fit to training cues and patterns (n, d), with the penalty that is best on held-out ones (m, d)."""
        cues, patterns = held_out
        fitted = [cls.fit(*training, penalty=penalty) for penalty in penalties]
        return min(fitted, key=lambda one: float((one.restore(cues) - patterns).square().mean()))

    def restore(self, cues: Tensor) -> Tensor:
        """Return a guess (…, d) at the patterns behind the cues (…, d)."""
        return _with_constant(cues) @ self.weights

    @property
    def name(self) -> str:
        """Name in the tables."""
        return "ridge"

    def bytes_per_memory(self, n: int, d: int) -> int:
        """Return 0: it has no memories."""
        return 0

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """Return a guess at the patterns behind the cues, whatever the items."""
        return self.restore(cues)


@dataclass(frozen=True)
class ConditionalGaussian:
    """Patterns as draws of one Gaussian: the best linear guess at unknown entries where it is told which are known."""

    mean: Tensor
    """(d,)"""
    covariance: Tensor
    """(d, d)"""

    @classmethod
    def fit(cls, patterns: Tensor, *, shrinkage: float = 0.01) -> "ConditionalGaussian":  # (n, d)
        """Fit mean and covariance to training patterns, this one shrunk towards a multiple of the identity."""
        mean = patterns.mean(0)
        centred = patterns - mean
        covariance = centred.T @ centred / len(patterns)
        variance = covariance.diagonal().mean()
        return cls(mean, (1 - shrinkage) * covariance + shrinkage * variance * torch.eye(len(mean)))

    @classmethod
    def tune(
        cls,
        training: Tensor,
        held_out: tuple[Tensor, Tensor],
        *,
        shrinkages: Sequence[float] = SHRINKAGES,
    ) -> "ConditionalGaussian":
        """Fit to training patterns (n, d), with the shrinkage that best fills held-out ones (m, d), known (m, d)."""
        patterns, known = held_out
        fitted = [cls.fit(training, shrinkage=shrinkage) for shrinkage in shrinkages]
        return min(fitted, key=lambda one: float((one.restore(patterns, known) - patterns).square().mean()))

    def restore(self, cues: Tensor, known: Tensor) -> Tensor:
        """Return the cues (…, d) with the conditional mean of the entries not known, given those known (…, d), bool."""
        rows, masks = cues.reshape(-1, cues.shape[-1]), known.reshape(-1, cues.shape[-1])
        size = max(1, _CHUNK_FLOATS // rows.shape[1] ** 2)
        parts = [self._fill(x, mask) for x, mask in zip(rows.split(size), masks.split(size), strict=True)]
        return torch.cat(parts).reshape(cues.shape)

    def _fill(self, x: Tensor, known: Tensor) -> Tensor:
        """Fill x (n, d), each row with a mask of its own: one system of equations for each row.

        Unknown rows and columns become those of the identity, so that systems with any number of known entries share a
        batch.
        """
        keep = known.to(x.dtype)
        both = keep[:, :, None] * keep[:, None, :]
        ridge = torch.diag_embed(1 - keep + _JITTER * self.covariance.diagonal().mean())
        factor = torch.linalg.cholesky(both * self.covariance + ridge)
        weights = torch.cholesky_solve((keep * (x - self.mean))[..., None], factor)[..., 0]
        return torch.where(known, x, self.mean + weights @ self.covariance)

    @property
    def name(self) -> str:
        """Name in the tables."""
        return "conditional Gaussian"

    def bytes_per_memory(self, n: int, d: int) -> int:
        """Return 0: it has no memories."""
        return 0

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """Return the cues (memories, m, d) with their unknown entries filled; without a mask it has nothing to fill."""
        return cues if known is None else self.restore(cues, known)


def _with_constant(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(*x.shape[:-1], 1)], -1)
