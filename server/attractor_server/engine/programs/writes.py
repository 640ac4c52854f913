"""The writing loop over a closed form: as `energy.writer`, with what the steps share computed once."""

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors, Terms
from attractor_server.energy.parameters import COUNT_UNIT, Parameters
from attractor_server.energy.writer import weighted
from attractor_server.engine.programs.forms import Form


def write_form(  # noqa: PLR0913
    form: Form,
    parameters: Parameters,
    fast: Tensors,  # each (pages, *shape)
    patterns: Tensor,  # (pages, patterns, d)
    *,
    present: Tensor,  # (pages, patterns) bool
    stored: Tensor,  # (pages,)
    out: Tensors,  # each (pages, *shape)
) -> None:
    """See `energy.writer.write`: the last step puts its weights in `out`; the given ones stay as they are."""
    patterns, weight, now = weighted(patterns, present)
    ground = form.ground(patterns)
    rates = _rates(parameters.writer, fast, now, stored)
    terms = _terms(parameters, now)
    distances = (2 * parameters.writer["log_beta"].exp()).tolist() if "log_beta" in parameters.writer else []
    limit = parameters.writer["log_clip"].exp()
    last = parameters.writing_steps - 1
    for t in range(last + 1):
        distance = distances[t] if distances else 0.0
        slopes = ground.slopes(fast, distance, parameters.initial, weight, terms[t])
        into = out if t == last else slopes
        for name, value in fast.items():
            _move(value, slopes[name], rates[name][t], limit, into=into[name])
        fast = into


def _rates(writer: Tensors, fast: Tensors, now: Tensor, stored: Tensor) -> Tensors:
    """For each fast tensor the step sizes (T, pages), conditioned on the patterns written now and before."""
    before = (stored.to(now.dtype) / COUNT_UNIT).log1p()
    conditioning = writer["rate_count"] * now + writer["rate_stored"] * before
    return {name: (writer[f"log_rate.{name}"][:, None] + conditioning).exp() for name in fast}


def _terms(parameters: Parameters, now: Tensor) -> list[Terms]:
    """The objective's weights at each step; a term of the gradient by the parameters has no effect in closed forms."""
    writer, steps = parameters.writer, parameters.writing_steps

    def weights(name: str, exponent: Tensor) -> list[Tensor | None]:
        return list((writer[name][:, None] + exponent).exp()) if name in writer else [None] * steps

    energy = weights("log_energy", torch.zeros_like(now))
    slope = weights("log_alpha", writer["alpha_count"] * now)
    return [Terms(energy=one, slope=other) for one, other in zip(energy, slope, strict=True)]


def _move(value: Tensor, gradient: Tensor, rate: Tensor, limit: Tensor, *, into: Tensor) -> None:
    """Puts the value less rate (pages,) times its clipped gradient there, which may be the gradient's own place."""
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    scale = (norm / limit).square_().add_(1).rsqrt_().mul_(rate).neg_()
    torch.addcmul(value, gradient, scale.reshape(-1, *(1,) * (value.dim() - 1)), out=into)
