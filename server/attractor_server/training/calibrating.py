"""Fits the probability that `recognize` returns to validation data."""

import torch

from attractor_server.energy.calibration import Calibration
from attractor_server.energy.model import Model
from attractor_server.training.datasets import Source
from attractor_server.training.recipe import Recipe
from attractor_server.training.validation import Task, familiarity, trial_of, written

MEMORIES = 32


def calibrated(model: Model, source: Source, recipe: Recipe) -> Calibration:
    """A logistic regression on ΔE of cues of stored and of unseen patterns, in memories of several fillings."""
    from sklearn.linear_model import LogisticRegression

    features, truth = [], []
    for seed, count in enumerate(sorted({max(1, recipe.capacity // part) for part in (8, 4, 2, 1)})):
        task = Task(data=recipe.data, cues=recipe.cues, count=count, memories=MEMORIES, seed=100 + seed)
        trial = trial_of(source, task)
        fast = written(model, trial.patterns, 1)
        for cues, stored in ((trial.cues, 1.0), (trial.unseen, 0.0)):
            delta = familiarity(model, fast, cues).flatten()
            features.append(torch.stack([delta, torch.full_like(delta, count).log1p()], 1))
            truth.append(torch.full_like(delta, stored))
    table, labels = torch.cat(features), torch.cat(truth)
    scale = table.std(0).clamp(min=1e-6)
    fitted = LogisticRegression(C=100.0, max_iter=1000).fit((table / scale).numpy(), labels.numpy())
    weights = torch.tensor(fitted.coef_[0], dtype=torch.float32) / scale
    return Calibration(torch.cat([torch.tensor(fitted.intercept_, dtype=torch.float32), weights]))
