"""The writing loop over a closed form: as `energy.writer`, with what the steps share computed once."""

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.writer import weighted
from attractor_server.engine.programs.forms import Form, WritingKernel
from attractor_server.engine.programs.schedule import WritingSchedule


def write_form(  # noqa: PLR0913
    form: Form,
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
    patterns, weight, now = weighted(patterns, present)
    ground = form.ground(patterns)
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
    """Puts the value less rate (pages,) times its clipped gradient there, which may be the gradient's own place."""
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    scale = (norm / limit).square_().add_(1).rsqrt_().mul_(rate).neg_()
    torch.addcmul(value, gradient, scale.reshape(-1, *(1,) * (value.dim() - 1)), out=into)
