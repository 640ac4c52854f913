"""The oracle: one memory and one pattern at a time, plain autograd, nothing clever. Tests hold the loops to it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import EnergyNetwork, Tensors
from attractor_server.energy.parameters import COUNT_UNIT, Parameters


def energy(network: EnergyNetwork, parameters: Parameters, fast: Tensors, x: Tensor) -> Tensor:
    """E of a single pattern x (d,) in a single memory, a scalar."""
    return network.energy(parameters.slow, {name: value[None] for name, value in fast.items()}, x[None, None])[0, 0]


def read(  # noqa: PLR0913
    network: EnergyNetwork, parameters: Parameters, fast: Tensors, cue: Tensor, *, known: Tensor, steps: int
) -> Tensor:
    """Read what the cue (d,) leads to, (d,)."""
    x, velocity = cue, torch.zeros_like(cue)
    for k in range(steps):
        k = min(k, parameters.reading_steps - 1)
        momentum = torch.sigmoid(parameters.reader["momentum_logit"][k]) if "momentum_logit" in parameters.reader else 0
        gradient = torch.where(known, 0.0, slope(network, parameters, fast, x + momentum * velocity))
        gradient = gradient / torch.sqrt(1 + torch.mean(gradient**2))
        velocity = momentum * velocity - torch.exp(parameters.reader["log_step"][k]) * gradient
        x = x + velocity
    return x


def write(
    network: EnergyNetwork, parameters: Parameters, fast: Tensors, patterns: Sequence[Tensor], *, stored: int
) -> Tensors:
    """Return the fast weights of one memory after writing these patterns, each (d,)."""
    writer = parameters.writer
    now, before = len(patterns) / COUNT_UNIT, 1 + stored / COUNT_UNIT
    for t in range(parameters.writing_steps):
        fast = {name: fresh(value) for name, value in fast.items()}
        objective = torch.zeros((), dtype=patterns[0].dtype)
        for x in patterns:
            objective = objective + _terms(network, parameters, fast, x, t, now) / len(patterns)
        if "log_beta" in writer:
            for name, value in fast.items():
                distance = torch.sum((value - parameters.initial[name]) ** 2)
                objective = objective + torch.exp(writer["log_beta"][t]) * distance
        gradients = torch.autograd.grad(objective, list(fast.values()), create_graph=True)
        for name, gradient in zip(fast, gradients, strict=True):
            clipped = gradient / torch.sqrt(1 + torch.sum(gradient**2) / torch.exp(writer["log_clip"]) ** 2)
            scale = now ** writer["rate_count"] * before ** writer["rate_stored"]
            fast[name] = fast[name] - torch.exp(writer[f"log_rate.{name}"][t]) * scale * clipped
    return fast


def frame(patterns: Tensor, *, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return μ (d,), s·F (d, d) and (s·F)⁻¹ of a page's patterns (n, d), which differ; see `energy.frame`.

    The power is that of a frame of so many axes; here there are as many as values.
    """
    n, d = patterns.shape
    mean = patterns.mean(0)
    covariance = (patterns - mean).T @ (patterns - mean) / n
    trace, squares = covariance.trace(), (covariance @ covariance).trace()
    oracle = ((1 - 2 / d) * squares + trace**2) / ((n + 1 - 2 / d) * (squares - trace**2 / d))
    share = (1 - min(float(oracle), 1)) * (n - 1) / (n + 7)
    centre = mean * max(0, 1 - float(trace / ((n - 1) * mean.square().sum())))
    variances, axes = torch.linalg.eigh(
        torch.eye(d, dtype=patterns.dtype) + share / (1 - share) * covariance * d / trace
    )
    stretch = axes @ torch.diag(variances ** (-0.25 * min(1, (rank + 1) / n))) @ axes.T
    scale = torch.sqrt(patterns.square().sum() / ((patterns - centre) @ stretch).square().sum())
    return centre, scale * stretch, torch.linalg.inv(scale * stretch)


def _terms(  # noqa: PLR0913
    network: EnergyNetwork, parameters: Parameters, fast: Tensors, x: Tensor, t: int, now: float
) -> Tensor:
    """Return what one pattern adds to the objective, for each term that has a weight."""
    writer, total = parameters.writer, torch.zeros((), dtype=x.dtype)
    count = now ** writer["alpha_count"]
    if "log_energy" in writer:
        total = total + torch.exp(writer["log_energy"][t]) * energy(network, parameters, fast, x)
    if "log_alpha" in writer:
        g = slope(network, parameters, fast, x)
        total = total + torch.exp(writer["log_alpha"][t]) * count * g.dot(g)
    if "log_gamma" in writer:
        by = torch.autograd.grad(energy(network, parameters, fast, x), list(fast.values()), create_graph=True)
        total = total + torch.exp(writer["log_gamma"][t]) * count * sum(torch.sum(g**2) for g in by)
    return total


def slope(network: EnergyNetwork, parameters: Parameters, fast: Tensors, x: Tensor) -> Tensor:
    """∇ₓE (d,)."""
    x = fresh(x)
    (gradient,) = torch.autograd.grad(energy(network, parameters, fast, x), x, create_graph=True)
    return gradient


def fresh(tensor: Tensor) -> Tensor:
    """Return the values as a node of their own: a gradient by it leaves out how else they enter the graph."""
    tensor = tensor.clone()
    return tensor if tensor.requires_grad else tensor.requires_grad_()


def agreements(x: Sequence[Tensor], u: Sequence[Tensor]) -> list[Tensor]:
    """Return the agreements of one kept pattern with a cue and a reading: each in network units and value by value.

    Both are given as (cue, reading, kept), each (d,); the cue is NaN where it gives nothing. See `energy.posterior`.
    """
    found = [x[which].dot(x[2]) / (x[which].norm() * x[2].norm()) for which in (0, 1)]
    gaps = [(u[which] - u[2])[~u[which].isnan()] for which in (0, 1)]
    return [*found, *(-gap.square().mean() for gap in gaps), *(-gap.abs().mean() for gap in gaps)]


def moved_agreement(cue: Tensor, kept: Tensor, *, reach: int, slight: float) -> Tensor:
    """Return the agreement of an image (height, width, channels) with a kept one, wherever the cue was moved to."""
    height, width = cue.shape[0] - 2 * reach, cue.shape[1] - 2 * reach
    middle = cue[reach : reach + height, reach : reach + width]
    found = [
        -(slight + (middle - kept[down : down + height, right : right + width])[~middle.isnan()].square().mean()).log()
        for down in range(2 * reach + 1)
        for right in range(2 * reach + 1)
    ]
    return torch.stack(found).max()


def covered_agreement(cue: Tensor, kept: Tensor, *, slight: float) -> Tensor:
    """Return the agreement of an image (height, width, channels) with a kept one, wherever a quarter was covered."""
    height, width = cue.shape[0] // 2, cue.shape[1] // 2
    found = []
    for top in range(cue.shape[0] - height + 1):
        for left in range(cue.shape[1] - width + 1):
            window = cue[top : top + height, left : left + width]
            expected = kept.clone()
            expected[top : top + height, left : left + width] = window.nanmean((0, 1))
            found.append(-(slight + (cue - expected)[~cue.isnan()].square().mean()).log())
    return torch.stack(found).max()


def posterior_mean(scores: Tensor, none: Tensor, kept: Tensor, reading: Tensor) -> Tensor:
    """Return the gradient step of size 1 from the reading (d,), with scores (n,) of kept patterns (n, d); see there."""

    def energy_of(x: Tensor) -> Tensor:
        items = scores + ((reading - kept).square().sum(1) - (x - kept).square().sum(1)) / 2
        other = none - (x - reading).square().sum() / 2
        return -torch.cat([items, other[None]]).exp().sum().log()

    x = fresh(reading)
    (gradient,) = torch.autograd.grad(energy_of(x), x)
    return reading - gradient


def weigh_copies(scores: Tensor, kept: Tensor, again: Tensor) -> Tensor:
    """Return m′ and r′ (d,) weighed by one another, with scores (n,) of kept patterns (n, d); see there."""
    squares = torch.stack([(one - again).square().sum() for one in kept])
    ratios = squares / squares[scores.argmax()]
    shares = torch.stack([(s / 2 - max(ratio, torch.ones(()))).exp() for s, ratio in zip(scores, ratios, strict=True)])
    shares = shares / shares.sum()
    mean = (shares[:, None] * kept).sum(0)
    spread = (shares * torch.stack([(one - mean).square().sum() for one in kept])).sum()
    moved = (mean - again).square().sum()
    return (moved * mean + spread * again) / (spread + moved)
