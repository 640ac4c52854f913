"""The erasing loop: a few steps on the fast weights, of learned direction and size, make patterns strangers again.

Gradient ascent on what writing descends does not forget, it damages. What does is learned: how far to go along each
term of the writing objective, with a sign.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import EnergyNetwork, Gradients, Tensors, Terms, gradients_of
from attractor_server.energy.parameters import COUNT_UNIT, Parameters
from attractor_server.energy.writer import clip_memory, weight_patterns


def erase(  # noqa: PLR0913
    network: EnergyNetwork,
    parameters: Parameters,
    fast: Tensors,  # each (memories, *shape)
    patterns: Tensor,  # (memories, patterns, d)
    *,
    present: Tensor,  # (memories, patterns) bool
    stored: Tensor,  # (memories,) patterns written and not erased before
) -> Tensors:
    """Return the fast weights after erasing the patterns that are present, one after another, each (memories, *shape).

    One at a time, because the direction that forgets several at once is not the mean of theirs. For each, at step s:
    θ ← θ − (1 + stored/16)^p·16^−q·(a·∇_θE + b·∇_θ‖∇ₓE‖² + c·(θ − θ₀)), the gradients clipped; p, q, and a, b, c for
    each tensor and step are learned. Needs `parameters.eraser`. Where no pattern is present nothing changes.
    """
    left = stored.to(patterns.dtype)
    for x, here in zip(patterns.split(1, 1), present.split(1, 1), strict=True):
        changed = _without(network, parameters, fast, x, here, left)
        fast = {name: torch.where(_along(here[:, 0], value), changed[name], value) for name, value in fast.items()}
        left = left - here[:, 0].to(left.dtype)
    return fast


def _without(  # noqa: PLR0913
    network: EnergyNetwork, parameters: Parameters, fast: Tensors, x: Tensor, here: Tensor, stored: Tensor
) -> Tensors:
    """Return the fast weights after erasing one pattern of each memory, x (memories, 1, d), where it is `here`."""
    gradients, eraser = gradients_of(network), parameters.eraser
    x, weight, now = weight_patterns(x, here)
    scale = (eraser["stored"] * (stored / COUNT_UNIT).clamp(min=0).log1p() + eraser["count"] * now).exp()
    limit = eraser["log_clip"].exp()
    for s in range(count_erasing_steps(parameters)):
        along = _directions(gradients, parameters, fast, x, weight)
        moves = {
            name: eraser[f"energy.{name}"][s] * clip_memory(along["energy"][name], limit)
            + eraser[f"slope.{name}"][s] * clip_memory(along["slope"][name], limit)
            + eraser[f"distance.{name}"][s] * (value - parameters.initial[name])
            for name, value in fast.items()
        }
        fast = {name: value - _along(scale, value) * moves[name] for name, value in fast.items()}
    return fast


def _along(factor: Tensor, value: Tensor) -> Tensor:
    """Reshape one entry a memory (memories,) to go with a value (memories, *shape)."""
    return factor.reshape(-1, *(1,) * (value.dim() - 1))


def count_erasing_steps(parameters: Parameters) -> int:
    """Return the number of the eraser's steps; 0 where the model has none."""
    return next((len(value) for name, value in parameters.eraser.items() if name.startswith("energy.")), 0)


def initial_eraser(steps: int, tensors: Iterable[str], *, up: float = 0.02) -> Tensors:
    """Make an eraser that goes so far up the energy at each step, from where learning goes on."""
    start = {"energy": -up, "slope": 0.0, "distance": 0.0}
    names = list(tensors)
    moves = {f"{term}.{name}": torch.full((steps,), value) for term, value in start.items() for name in names}
    return {**moves, "stored": torch.zeros(()), "count": torch.zeros(()), "log_clip": torch.tensor(5.0).log()}


def _directions(
    gradients: Gradients, parameters: Parameters, fast: Tensors, patterns: Tensor, weight: Tensor
) -> dict[str, Tensors]:
    one = torch.ones(len(patterns), dtype=patterns.dtype, device=patterns.device)
    return {
        "energy": gradients.write_gradient(parameters.slow, fast, patterns, weight, Terms(energy=one)),
        "slope": gradients.write_gradient(parameters.slow, fast, patterns, weight, Terms(slope=one)),
    }
