"""The reading and the writing loop over a closed form."""

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.reader import Reading
from attractor_server.energy.transform import Hold, Pull
from attractor_server.energy.writer import weight_patterns
from attractor_server.engine.compute.closed_form import ClosedForm, Evaluation, Schedule, WritingKernel, WritingSchedule


def read_form(  # noqa: PLR0913
    form: ClosedForm,
    schedule: Schedule,
    fast: Tensors,  # each (pages, *shape)
    cue: Tensor,  # (pages, patterns, d)
    *,
    hold: Hold | None = None,
    pull: Pull | None = None,
    steps: int,
) -> Reading:
    """See `energy.reader.read`; the cue's energies come from the products of the first step."""
    first = form.evaluate(fast, cue)
    pattern = _descend(form, schedule, fast, first, cue, hold=hold, pull=pull, steps=steps)
    return Reading(
        pattern=pattern,
        energy_before=first.energy(),
        energy_after=form.evaluate(fast, pattern).energy(),
        delta_energy=first.gap(),
    )


def _descend(  # noqa: PLR0913
    form: ClosedForm,
    schedule: Schedule,
    fast: Tensors,
    look: Evaluation,  # at the cue, where the first step's gradient is taken
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
            look = form.evaluate(fast, ahead)
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
    """Compute the factor that clips each pattern's gradient smoothly and makes it a step: −size·(1 + ‖g‖²/d)^−½."""
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    scale: Tensor = norm.square_().div_(gradient.shape[-1]).add_(1).rsqrt_().mul_(-size)
    return scale


def write_form(  # noqa: PLR0913
    form: ClosedForm,
    parameters: Parameters,
    fast: Tensors,  # each (pages, *shape)
    patterns: Tensor,  # (pages, patterns, d)
    *,
    present: Tensor,  # (pages, patterns) bool
    stored: Tensor,  # (pages,)
    out: Tensors,  # each (pages, *shape)
    kernel: WritingKernel | None = None,
) -> None:
    """See `energy.writer.write`: the last step puts its weights in `out`; the given ones stay as they are."""
    patterns, weight, now = weight_patterns(patterns, present)
    ground = form.prepare_write(patterns)
    schedule = WritingSchedule.of(parameters, weight=weight, now=now, stored=stored)
    if kernel is not None and kernel.takes(patterns):
        kernel.write(ground, fast, schedule, out=out)
        return
    last = parameters.writing_steps - 1
    for t in range(last + 1):
        slopes = ground.slopes(fast, schedule.distances[t], parameters.initial, weight, schedule.terms(t))
        into = out if t == last else slopes
        for name, value in fast.items():
            _move(value, slopes[name], schedule.rates[name][t], schedule.limit, into=into[name])
        fast = into


def _move(value: Tensor, gradient: Tensor, rate: Tensor, limit: Tensor, *, into: Tensor) -> None:
    """Put the value less rate (pages,) times its clipped gradient there, which may be the gradient's own place."""
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    scale = (norm / limit).square_().add_(1).rsqrt_().mul_(rate).neg_()
    torch.addcmul(value, gradient, scale.reshape(-1, *(1,) * (value.dim() - 1)), out=into)
