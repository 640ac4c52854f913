"""Figures of merit."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from attractor_server.training.baselines import find_nearest
from attractor_server.training.recipe import Metric


def identification_rate(x: Tensor, items: Tensor) -> float:
    """Return the share of x (…, n, d) whose nearest item (…, n, d) has the same index."""
    return float((find_nearest(x, items) == torch.arange(items.shape[-2])).float().mean())


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Return the probability that a positive's score lies above a negative's; ties count half."""
    scores = torch.cat([positive.flatten(), negative.flatten()])
    _, place, count = scores.unique(return_inverse=True, return_counts=True)
    ranks = (count.cumsum(0) - (count - 1) / 2)[place]  # from 1; equal scores share the mean of their ranks
    n, m = positive.numel(), negative.numel()
    return float((ranks[:n].double().sum() - n * (n + 1) / 2) / (n * m))


SCORES: Mapping[Metric, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda x, truth: (x - truth).square().mean(-1),
    "bit_error": lambda x, truth: ((x > 0) != (truth > 0)).float().mean(-1),
    "cosine": lambda x, truth: cosine_similarity(x, truth, dim=-1),
    "characters": lambda x, truth: (x.round() == truth).float().mean(-1),
}
"""Scores of each pattern, (…, d) to (…): error, share of wrong signs, cosine, share of right characters"""

HIGHER_IS_BETTER = frozenset({"cosine", "characters"})
