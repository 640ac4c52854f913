"""The writing loop: gradient steps on the fast weights make patterns attractors (claims 2 to 8, 18, 21)."""

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import EnergyNetwork, Tensors, Terms, gradients_of
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
    """Return the fast weights after writing the patterns that are present, each (memories, *shape).

    Descends, in T steps, the mean over patterns of ε·E + α‖∇ₓE‖² + γ‖∇_θE‖², plus β‖θ − θ₀‖²; terms without a weight
    among the parameters are off. Step sizes, α and γ are conditioned on the number of patterns written now (n) and
    before: η·(n/16)^p·(1 + stored/16)^s and α·(n/16)^r. What stands in the place of an absent pattern has no effect.
    """
    gradients = gradients_of(network)
    writer = parameters.writer
    patterns, weight, now = weight_patterns(patterns, present)
    before = (stored.to(patterns.dtype) / COUNT_UNIT).log1p()
    conditioning = writer["rate_count"] * now + writer["rate_stored"] * before
    for t in range(parameters.writing_steps):
        gradient = gradients.write_gradient(parameters.slow, fast, patterns, weight, _terms(writer, t, now))
        beta = writer["log_beta"][t].exp() if "log_beta" in writer else 0.0
        fast = {
            name: _step(
                value,
                gradient[name] + (value - parameters.initial[name]) * (2 * beta),
                (writer[f"log_rate.{name}"][t] + conditioning).exp(),
                writer["log_clip"].exp(),
            )
            for name, value in fast.items()
        }
    return fast


def weight_patterns(patterns: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the patterns without what stands in absent places, the weight of each in the mean, and log(n/16)."""
    patterns = patterns.masked_fill(~present[..., None], 0)  # a weight of 0 alone would let infinities through
    count = present.sum(1).clamp(min=1).to(patterns.dtype)  # (memories,)
    return patterns, present.to(patterns.dtype) / count[:, None], (count / COUNT_UNIT).log()


def delta_energy(network: EnergyNetwork, parameters: Parameters, fast: Tensors, x: Tensor) -> Tensor:
    """Familiarity, E(x; θ) − E(x; θ₀), (memories, patterns) of x (memories, patterns, d): low for what was stored."""
    return network.energy(parameters.slow, fast, x) - empty_energy(network, parameters, x)


def empty_energy(network: EnergyNetwork, parameters: Parameters, x: Tensor) -> Tensor:
    """E(x; θ₀), (memories, patterns) of x (memories, patterns, d), all of them as patterns of one empty memory."""
    energies = network.energy(parameters.slow, parameters.memories(1), x.flatten(0, 1)[None])
    return energies.reshape(x.shape[:2])


def clip_memory(gradient: Tensor, limit: Tensor) -> Tensor:
    """g·(1 + ‖g‖²/c²)^−½: each memory's gradient (memories, *shape) is bounded smoothly by c."""
    norm = gradient.flatten(1).square().sum(1)
    return gradient * _along((1 + norm / limit.square()).rsqrt(), gradient)


def _terms(writer: Tensors, t: int, now: Tensor) -> Terms:
    """Return the objective's weights at step t; `now` (memories,) is log(n/16)."""

    def weight(name: str, exponent: Tensor) -> Tensor | None:
        return (writer[name][t] + exponent).exp() if name in writer else None

    counted = writer["alpha_count"] * now
    return Terms(
        energy=weight("log_energy", torch.zeros_like(now)),
        slope=weight("log_alpha", counted),
        parameter_slope=weight("log_gamma", counted),
    )


def _step(value: Tensor, gradient: Tensor, rate: Tensor, limit: Tensor) -> Tensor:
    """Return the value less rate (memories,) times its clipped gradient."""
    norm = gradient.flatten(1).square().sum(1)
    scale = rate * (1 + norm / limit.square()).rsqrt()
    return torch.addcmul(value, gradient, -_along(scale, value))


def _along(factor: Tensor, value: Tensor) -> Tensor:
    """Reshape a factor (memories,) to multiply a value (memories, *shape)."""
    return factor.reshape(-1, *(1,) * (value.dim() - 1))
