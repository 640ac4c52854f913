"""Linear baselines, which guess from the cue alone, at their best penalty."""

from collections.abc import Iterator

import torch
from torch import Tensor

from attractor_server.training.baselines import ConditionalGaussian, Ridge
from attractor_server.training.distortions import Cues, distort
from attractor_server.training.evaluation.bench import Bench
from attractor_server.training.recipe import CueTable
from attractor_server.training.validation import fill_gaps

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)

SHRINKAGES = (0.003, 0.03, 0.3)

SAMPLES = 16384

CHUNK = 4096

HELD_OUT = 512

MASKS = 48
"""Held-out patterns that the Gaussian is tuned on: each is a system of equations of its own"""


def tune_ridge(bench: Bench, table: CueTable) -> Ridge:
    """Fit least squares to many distorted training patterns, with the penalty that is best on validation patterns."""
    size = bench.training.layout.size + 1
    gram, cross = torch.zeros(size, size), torch.zeros(size, size - 1)
    for cues, patterns in _pairs(bench, table):
        inputs = _with_constant(cues)
        gram += inputs.T @ inputs
        cross += inputs.T @ patterns
    held_out = bench.held_out.pool(HELD_OUT)
    cues = _distort(bench, table, held_out, seed=1)
    fitted = [Ridge(torch.linalg.solve(gram + penalty * torch.eye(size), cross)) for penalty in PENALTIES]
    return min(fitted, key=lambda one: float((one.restore(cues) - held_out).square().mean()))


def tune_gaussian(bench: Bench, table: CueTable) -> ConditionalGaussian:
    """Fit a Gaussian to training patterns, with the shrinkage that best fills validation patterns."""
    generator = torch.Generator().manual_seed(2)
    patterns = bench.held_out.pool(MASKS)
    missing = _draw_cues(bench, table, patterns, generator).values[0].isnan()
    training = bench.training.pool(SAMPLES)
    return ConditionalGaussian.tune(training, (patterns, ~missing), shrinkages=SHRINKAGES)


def _pairs(bench: Bench, table: CueTable) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield cues and patterns (n, values) in chunks: the training patterns repeatedly, each time distorted anew."""
    chunks = bench.training.pool(SAMPLES).split(CHUNK)
    made = 0
    while made < SAMPLES:
        for patterns in chunks:
            yield _distort(bench, table, patterns, seed=1000 + made), patterns
            made += len(patterns)


def _distort(bench: Bench, table: CueTable, patterns: Tensor, *, seed: int) -> Tensor:
    return fill_gaps(bench.model, _draw_cues(bench, table, patterns, torch.Generator().manual_seed(seed)))[0]


def _draw_cues(bench: Bench, table: CueTable, patterns: Tensor, generator: torch.Generator) -> Cues:
    data = bench.training
    return distort(patterns[None], data.layout, [table], generator, drifts=data.drifts)


def _with_constant(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], -1)
