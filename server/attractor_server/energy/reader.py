"""The reading loop: the cue descends the energy until it has fallen into an attractor (claims 1, 12 to 14, 17, 20)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import EnergyNetwork, Tensors, gradients_of
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.transform import Hold, Pull
from attractor_server.energy.writer import empty_energy


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Completed patterns (memories, patterns, d) and their energies (memories, patterns)."""

    pattern: Tensor
    energy_before: Tensor
    energy_after: Tensor
    delta_energy: Tensor
    """E(cue; θ) − E(cue; θ₀)"""
    iterates: Tensor | None = None
    """(steps + 1, memories, patterns, d), the cue first"""
    energies: Tensor | None = None
    """(steps + 1, memories, patterns)"""


def read(  # noqa: PLR0913
    network: EnergyNetwork,
    parameters: Parameters,
    fast: Tensors,  # each (memories, *shape)
    cue: Tensor,  # (memories, patterns, d)
    *,
    known: Tensor | None = None,  # (memories, patterns, d) bool
    hold: Hold | None = None,
    pull: Pull | None = None,
    steps: int = 0,
    trajectory: bool = False,
) -> Reading:
    """Read the patterns that the cues lead to, in `steps` steps (0: as many as were trained, K)."""
    steps = steps or parameters.reading_steps
    iterates = descend(network, parameters, fast, cue, known=known, hold=hold, pull=pull, steps=steps)
    pattern = iterates[-1]
    before = network.energy(parameters.slow, fast, cue)
    return Reading(
        pattern=pattern,
        energy_before=before,
        energy_after=network.energy(parameters.slow, fast, pattern),
        delta_energy=before - empty_energy(network, parameters, cue),
        iterates=torch.stack(iterates) if trajectory else None,
        energies=torch.stack([network.energy(parameters.slow, fast, x) for x in iterates]) if trajectory else None,
    )


def descend(  # noqa: PLR0913
    network: EnergyNetwork,
    parameters: Parameters,
    fast: Tensors,
    cue: Tensor,
    *,
    known: Tensor | None = None,
    hold: Hold | None = None,
    pull: Pull | None = None,
    steps: int,
) -> list[Tensor]:
    """Return the iterates from the cue on, the first: Nesterov's method, plain descent where no momentum was learned.

    `known` entries never move. Where what is known is no entry of x, as behind a whitening, `hold` clamps it hard: it
    is put back after each step. `pull` clamps it softly: the learned proximity term λ·½‖known ⊙ (v − cue)‖² is added
    to what is descended. Steps beyond those trained repeat the last one's size and momentum.
    """
    gradients = gradients_of(network)
    step, momentum, proximity = _schedules(parameters.reader)
    free = None if known is None else ~known
    velocity = torch.zeros_like(cue)
    iterates = [cue]
    for k in range(steps):
        k = min(k, len(step) - 1)
        ahead = iterates[-1] + momentum[k] * velocity
        gradient = gradients.input_gradient(parameters.slow, fast, ahead)
        if pull is not None and proximity is not None:
            gradient = torch.addcmul(gradient, proximity[k], pull(ahead))
        if free is not None:
            gradient = gradient * free
        velocity = momentum[k] * velocity - step[k] * clip_pattern(gradient)
        if hold is not None:
            velocity = hold(iterates[-1] + velocity) - iterates[-1]
        iterates.append(iterates[-1] + velocity)
    return iterates


def _schedules(reader: Tensors) -> tuple[Tensor, Tensor, Tensor | None]:
    """γ, momentum and λ at each step, (K,); no λ where the model has no proximity term."""
    step = reader["log_step"].exp()
    momentum = reader["momentum_logit"].sigmoid() if "momentum_logit" in reader else torch.zeros_like(step)
    return step, momentum, reader["log_proximity"].exp() if "log_proximity" in reader else None


def clip_pattern(gradient: Tensor) -> Tensor:
    """Bound the norm of each pattern's gradient smoothly by √d: g·(1 + ‖g‖²/d)^−½."""
    return gradient * torch.rsqrt(1 + gradient.square().mean(-1, keepdim=True))
