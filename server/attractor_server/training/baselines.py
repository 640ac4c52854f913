"""Rivals without attractors: what a memory has to be measured against."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ridge:
    """A memoryless denoiser: the best linear map from cues to patterns of the training data."""

    weights: Tensor
    """(d + 1, d), the last row for a constant"""

    @classmethod
    def fit(cls, cues: Tensor, patterns: Tensor, *, penalty: float = 10.0) -> "Ridge":  # both (n, d)
        """Least squares with a penalty on the squared weights."""
        inputs = _with_constant(cues)
        gram = inputs.T @ inputs + penalty * torch.eye(inputs.shape[1])
        return cls(torch.linalg.solve(gram, inputs.T @ patterns))

    def restore(self, cues: Tensor) -> Tensor:
        """Its guess (…, d) at the patterns behind the cues (…, d)."""
        return _with_constant(cues) @ self.weights


def nearest(cues: Tensor, items: Tensor) -> Tensor:
    """For each cue (…, n, d), the number of the nearest of its memory's items (…, m, d)."""
    return torch.cdist(cues, items).argmin(-1)


def look_up(cues: Tensor, items: Tensor) -> Tensor:
    """A store that keeps every item: the one nearest to each cue, (…, n, d)."""
    chosen = nearest(cues, items)[..., None].expand(*cues.shape)
    return items.gather(-2, chosen)


def _with_constant(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(*x.shape[:-1], 1)], -1)
