"""The writing loop: gradient steps on the fast weights make patterns attractors (claims 2, 3, 5, 18, 21)."""

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import EnergyNetwork, Tensors, gradients_of
from attractor_server.energy.parameters import COUNT_UNIT, Parameters


def write(  # noqa: PLR0913
    network: EnergyNetwork,
    parameters: Parameters,
    fast: Tensors,  # each (memories, *shape)
    patterns: Tensor,  # (memories, patterns, d)
    *,
    present: Tensor,  # (memories, patterns) bool
    stored: Tensor,  # (memories,) patterns written before
) -> Tensors:
    """The fast weights after writing the patterns that are present, each (memories, *shape).

    Descends the mean over patterns of E + α‖∇ₓE‖², plus β‖θ − θ₀‖², in T steps. Step sizes and α are conditioned on
    the number of patterns written now (n) and before: η·(n/16)^p·(1 + stored/16)^s and α·(n/16)^r. Whatever stands in
    the place of an absent pattern has no effect.
    """
    gradients = gradients_of(network)
    writer = parameters.writer
    patterns = patterns.masked_fill(~present[..., None], 0)  # a weight of 0 alone would let infinities through
    count = present.sum(1).clamp(min=1).to(patterns.dtype)  # (memories,)
    weight = present.to(patterns.dtype) / count[:, None]
    now, before = (count / COUNT_UNIT).log(), (stored.to(patterns.dtype) / COUNT_UNIT).log1p()
    conditioning = writer["rate_count"] * now + writer["rate_stored"] * before
    for t in range(parameters.writing_steps):
        alpha = (writer["log_alpha"][t] + writer["alpha_count"] * now).exp()
        gradient = gradients.write_gradient(parameters.slow, fast, patterns, weight, alpha)
        beta = writer["log_beta"][t].exp()
        fast = {
            name: _step(
                value,
                torch.addcmul(gradient[name], value - parameters.initial[name], 2 * beta),
                (writer[f"log_rate.{name}"][t] + conditioning).exp(),
                writer["log_clip"].exp(),
            )
            for name, value in fast.items()
        }
    return fast


def delta_energy(network: EnergyNetwork, parameters: Parameters, fast: Tensors, x: Tensor) -> Tensor:
    """Familiarity, E(x; θ) − E(x; θ₀), (memories, patterns) of x (memories, patterns, d): low for what was stored."""
    empty = network.energy(parameters.slow, parameters.memories(len(x)), x)
    return network.energy(parameters.slow, fast, x) - empty


def _step(value: Tensor, gradient: Tensor, rate: Tensor, limit: Tensor) -> Tensor:
    """value − rate·g·(1 + ‖g‖²/c²)^−½: each memory's gradient (memories, *shape) is bounded smoothly by c."""
    norm = gradient.flatten(1).square().sum(1)
    scale = rate * (1 + norm / limit.square()).rsqrt()  # (memories,)
    return torch.addcmul(value, gradient, -scale.reshape(-1, *(1,) * (value.dim() - 1)))
