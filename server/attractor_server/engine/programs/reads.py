"""The reading loop over a closed form: as `energy.reader`, on buffers that it reuses, and without a graph."""

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading
from attractor_server.energy.transform import Hold, Pull
from attractor_server.engine.programs.forms import Form, Look
from attractor_server.engine.programs.schedule import Schedule


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
        size, momentum, proximity = schedule.at(step)
        if step:
            ahead = torch.add(x, velocity, alpha=momentum)
            look = form.look(fast, ahead)
        gradient = look.slope()
        if pull is not None and proximity is not None:
            gradient.add_(pull(ahead), alpha=proximity)
        move = gradient.mul_(_scale(gradient, size))
        velocity = move.add_(velocity, alpha=momentum) if step else move
        if hold is not None:
            velocity = hold(x + velocity) - x
        x = x + velocity
    return x


def _scale(gradient: Tensor, size: float) -> Tensor:
    """What clips each pattern's gradient smoothly and makes it a step: −size·(1 + ‖g‖²/d)^−½."""
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    scale: Tensor = norm.square_().div_(gradient.shape[-1]).add_(1).rsqrt_().mul_(-size)
    return scale
