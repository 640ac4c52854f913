"""Quality of the recalled pictures, beside simpler methods with the same cues."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attractor_server.demo.job import Report
from attractor_server.demo.pictures import BLOCK, Plan
from attractor_server.training.baselines import look_up
from attractor_server.training.datasets import load_dataset
from attractor_server.training.metrics import auroc, identification_rate
from attractor_server.training.validation import fit_ridge


def mean_squared_error(x: Tensor, truth: Tensor) -> float:
    """Return the mean squared error over all pixels, with values from -1 to 1."""
    return 4 * float((x - truth).square().mean())


def figures_of(plans: Sequence[Plan], report: Report) -> dict[str, float]:
    """Return mean squared errors (values from -1 to 1), identification rates, and AUROCs."""
    stored, cues = torch.cat([plan.stored for plan in plans]), torch.cat([plan.cues for plan in plans])
    ridge = fit_ridge(load_dataset("glyphs", "train"), [BLOCK], lambda made: made.values)
    nearest = torch.cat([look_up(plan.cues, plan.stored) for plan in plans])
    answers = report.answers
    pairs = list(zip(plans, answers, strict=True))
    return {
        "mse_cue": mean_squared_error(cues, stored),
        "mse_recalled": mean_squared_error(torch.cat([one.recalled for one in answers]), stored),
        "mse_network": mean_squared_error(torch.cat([one.by_network for one in answers]), stored),
        "mse_ridge": mean_squared_error(ridge.restore(cues), stored),
        "mse_no_write": mean_squared_error(torch.cat([one.unwritten for one in answers]), stored),
        "mse_nearest": mean_squared_error(nearest, stored),
        "id_recalled": sum(identification_rate(one.recalled, plan.stored) * len(plan.stored) for plan, one in pairs)
        / len(stored),
        "id_cue": sum(identification_rate(plan.cues, plan.stored) * len(plan.stored) for plan in plans) / len(stored),
        "auroc": auroc(
            -torch.cat([one.stored_delta for one in answers]), -torch.cat([one.unseen_delta for one in answers])
        ),
        "probability_auroc": auroc(
            torch.cat([one.stored_probability for one in answers]),
            torch.cat([one.unseen_probability for one in answers]),
        ),
    }
