"""Familiarity: the probability that a pattern is stored, and that a page is the one that a cue is of."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """A logistic regression on ΔE, on how much a memory holds and how much of a cue is given; from validation data."""

    weights: Tensor
    """(3,): the intercept, by ΔE, by log(1 + stored); (4,) where the share of a cue's values that are given counts"""

    def to(self, device: torch.device) -> "Calibration":
        """Return the calibration with its weights on that device."""
        return Calibration(self.weights.to(device))

    def probability(self, delta_energy: Tensor, stored: Tensor, given: Tensor | None = None) -> Tensor:
        """Return probabilities (memories, patterns) of ΔE (memories, patterns) in memories that hold so many patterns.

        As if stored and unseen patterns were asked for equally often.
        """
        return torch.sigmoid(self.logit(delta_energy, stored, given))

    def logit(self, delta_energy: Tensor, stored: Tensor, given: Tensor | None = None) -> Tensor:
        """Return the log-odds of that probability, (…, memories, patterns).

        Without `given`, the share of each cue's values that are, they are right but for a constant of the cue.
        """
        held = stored.to(delta_energy.dtype).log1p()[..., None]
        logit = self.weights[0] + self.weights[1] * delta_energy + self.weights[2] * held
        return logit if given is None or len(self.weights) < WITH_GIVEN else logit + self.weights[3] * given


WITH_GIVEN = 4
"""Weights of a calibration in which it counts how much of a cue is given"""

CLOSE = 2.0
"""Log-odds by which a page must be ahead for the next one not to be read as well"""

MISFIT_WEIGHT = 1.6
"""Log-odds that a misfit of 1 costs"""

FITTING_SHARE = 0.7
"""Of a cue's entries, those nearest to the answer: the others may be what is distorted"""


@dataclass(frozen=True)
class Choice:
    """For each cue the page that most probably holds what it is of, and the next one."""

    page: Tensor
    """(…, cues) int64"""
    rival: Tensor
    """(…, cues) int64"""
    lead: Tensor
    """(…, cues) log-odds between the two; infinite where nothing calibrated tells, or there is no other page"""

    @property
    def contested(self) -> Tensor:
        """Where both should be read, and the one with more `evidence` answer: (…, cues) bool."""
        return self.lead < CLOSE


def choice_of(
    delta_energy: Tensor,  # (…, pages, cues)
    stored: Tensor,  # (…, pages) patterns in each page
    calibration: Calibration | None,
) -> Choice:
    """Choose by the calibration's logit, which compares pages of different numbers of patterns; else by ΔE alone.

    Energies may stand for ΔE: what is the same in all pages has no effect. A page that holds nothing, or whose energy
    is no number, is chosen only where all are such.
    """
    logit = -delta_energy if calibration is None else calibration.logit(delta_energy, stored)
    logit = logit.masked_fill(logit.isnan() | (stored == 0)[..., None], -torch.inf)
    first = logit.max(-2)
    second = logit.scatter(-2, first.indices.unsqueeze(-2), -torch.inf).max(-2)
    told = second.values.isfinite() & (calibration is not None)
    return Choice(first.indices, second.indices, (first.values - second.values).where(told, torch.inf))


def misfit(cues: Tensor, answers: Tensor) -> Tensor:
    """Compute how far answers (…, values) are from their cues (NaN: missing): squares summed over what fits best."""
    gaps = (answers - cues).square().nan_to_num(nan=torch.inf).sort(-1).values
    fitting = ((~cues.isnan()).sum(-1) * FITTING_SHARE).long()
    return gaps.masked_fill(torch.arange(gaps.shape[-1], device=gaps.device) >= fitting[..., None], 0).sum(-1)


def evidence(lead: Tensor, misfits: Tensor) -> Tensor:
    """Return the log-odds of a page, given its answers' misfits and how far others are ahead of it."""
    return -lead - MISFIT_WEIGHT * misfits
