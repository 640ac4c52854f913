"""Calibration: from ΔE to the probability that a pattern is stored."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """A logistic regression on ΔE and on how much a memory holds, fitted on validation data."""

    weights: Tensor
    """(3,): the intercept, by ΔE, by log(1 + stored)"""

    def probability(self, delta_energy: Tensor, stored: Tensor) -> Tensor:
        """(memories, patterns), of ΔE (memories, patterns) in memories that hold so many patterns (memories,).

        As if stored and unseen patterns were asked for equally often.
        """
        return torch.sigmoid(self.logit(delta_energy, stored))

    def logit(self, delta_energy: Tensor, stored: Tensor) -> Tensor:
        """Its log-odds, (…, memories, patterns)."""
        held = stored.to(delta_energy.dtype).log1p()[..., None]
        return self.weights[0] + self.weights[1] * delta_energy + self.weights[2] * held
