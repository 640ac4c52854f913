"""Figures of merit."""

import torch
from torch import Tensor

from attractor_server.training.baselines import nearest


def mean_squared_error(x: Tensor, truth: Tensor) -> float:
    """Over all entries, in the units of x."""
    return float((x - truth).square().mean())


def identified(x: Tensor, items: Tensor) -> float:
    """Share of x (…, n, d) whose nearest item (…, n, d) is the one of the same number."""
    return float((nearest(x, items) == torch.arange(items.shape[-2])).float().mean())


def auroc(positive: Tensor, negative: Tensor) -> float:
    """The chance that a positive's score lies above a negative's; ties count half."""
    scores = torch.cat([positive.flatten(), negative.flatten()])
    _, place, count = scores.unique(return_inverse=True, return_counts=True)
    ranks = (count.cumsum(0) - (count - 1) / 2)[place]  # from 1; equal scores share the mean of their ranks
    n, m = positive.numel(), negative.numel()
    return float((ranks[:n].double().sum() - n * (n + 1) / 2) / (n * m))
