"""The reading loop over a closed form: as `energy.reader`, on buffers that it reuses, and without a graph."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading
from attractor_server.energy.transform import Hold, Pull
from attractor_server.engine.programs.forms import Form, Look


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Size, momentum and weight of the proximity term of each step; steps beyond those trained repeat the last."""

    sizes: list[float]
    momenta: list[float]
    proximities: list[float]
    """Empty where the model has no such term"""

    @classmethod
    def of(cls, reader: Tensors) -> "Schedule":
        """As numbers, which cost no operation of their own."""
        momentum = reader["momentum_logit"].sigmoid().tolist() if "momentum_logit" in reader else []
        sizes = reader["log_step"].exp().tolist()
        return cls(
            sizes=sizes,
            momenta=momentum or [0.0] * len(sizes),
            proximities=reader["log_proximity"].exp().tolist() if "log_proximity" in reader else [],
        )


def read_form(  # noqa: PLR0913
    form: Form,
    schedule: Schedule,
    fast: Tensors,  # each (pages, *shape)
    cue: Tensor,  # (pages, patterns, d)
    *,
    hold: Hold | None = None,
    pull: Pull | None = None,
    steps: int,
) -> Reading:
    """See `energy.reader.read`; the cue's energies come from the products of the first step."""
    first = form.look(fast, cue)
    pattern = _descend(form, schedule, fast, first, cue, hold=hold, pull=pull, steps=steps)
    return Reading(
        pattern=pattern,
        energy_before=first.energy(),
        energy_after=form.look(fast, pattern).energy(),
        delta_energy=first.gap(),
    )


def _descend(  # noqa: PLR0913
    form: Form,
    schedule: Schedule,
    fast: Tensors,
    look: Look,  # at the cue, where the first step's gradient is taken
    cue: Tensor,
    *,
    hold: Hold | None,
    pull: Pull | None,
    steps: int,
) -> Tensor:
    x, ahead, velocity = cue, cue, torch.zeros((), dtype=cue.dtype, device=cue.device)
    for step in range(steps):
        k = min(step, len(schedule.sizes) - 1)
        if step:
            ahead = torch.add(x, velocity, alpha=schedule.momenta[k])
            look = form.look(fast, ahead)
        gradient = look.slope()
        if pull is not None and schedule.proximities:
            gradient.add_(pull(ahead), alpha=schedule.proximities[k])
        move = gradient.mul_(_scale(gradient, schedule.sizes[k]))
        velocity = move.add_(velocity, alpha=schedule.momenta[k]) if step else move
        if hold is not None:
            velocity = hold(x + velocity) - x
        x = x + velocity
    return x


def _scale(gradient: Tensor, size: float) -> Tensor:
    """What clips each pattern's gradient smoothly and makes it a step: −size·(1 + ‖g‖²/d)^−½."""
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    scale: Tensor = norm.square_().div_(gradient.shape[-1]).add_(1).rsqrt_().mul_(-size)
    return scale
