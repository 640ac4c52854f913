"""The loops' learned numbers: of the reading loop as numbers, of the writing loop for each page."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors, Terms
from attractor_server.energy.parameters import COUNT_UNIT, Parameters


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Size, momentum and weight of the proximity term of each step; steps beyond those trained repeat the last."""

    sizes: list[float]
    momenta: list[float]
    proximities: list[float] | None
    """None where the model has no such term"""

    @classmethod
    def of(cls, reader: Tensors) -> "Schedule":
        """As numbers, which cost no operation of their own."""
        sizes = reader["log_step"].exp().tolist()
        return cls(
            sizes=sizes,
            momenta=reader["momentum_logit"].sigmoid().tolist() if "momentum_logit" in reader else [0.0] * len(sizes),
            proximities=reader["log_proximity"].exp().tolist() if "log_proximity" in reader else None,
        )

    def at(self, step: int) -> tuple[float, float, float | None]:
        """Size, momentum and proximity of a step from 0 on."""
        k = min(step, len(self.sizes) - 1)
        return self.sizes[k], self.momenta[k], None if self.proximities is None else self.proximities[k]


@dataclass(frozen=True, kw_only=True, eq=False)
class WritingSchedule:
    """What the steps of one writing are weighed with, conditioned on how much each page is given and holds."""

    weight: Tensor
    """Of each pattern in its page's mean, (pages, patterns)"""
    rates: Tensors
    """For each fast tensor the step sizes, (T, pages)"""
    energy: Tensor | None
    """ε, (T, pages); None where the term is off"""
    slope: Tensor | None
    """α, (T, pages); None where the term is off"""
    distances: list[float]
    """2β at each step"""
    limit: Tensor
    """c, which clips gradients; a scalar"""

    @classmethod
    def of(cls, parameters: Parameters, *, weight: Tensor, now: Tensor, stored: Tensor) -> "WritingSchedule":
        """`now` (pages,) is log(n/16) of the patterns written now, `stored` (pages,) how many were before.

        A term of the gradient by the parameters has no effect in closed forms.
        """
        writer = parameters.writer
        before = (stored.to(now.dtype) / COUNT_UNIT).log1p()
        conditioning = writer["rate_count"] * now + writer["rate_stored"] * before

        def conditioned(name: str, exponent: Tensor) -> Tensor | None:
            return (writer[name][:, None] + exponent).exp() if name in writer else None

        return cls(
            weight=weight,
            rates={name: (writer[f"log_rate.{name}"][:, None] + conditioning).exp() for name in parameters.initial},
            energy=conditioned("log_energy", torch.zeros_like(now)),
            slope=conditioned("log_alpha", writer["alpha_count"] * now),
            distances=(2 * writer["log_beta"].exp()).tolist()
            if "log_beta" in writer
            else [0.0] * parameters.writing_steps,
            limit=writer["log_clip"].exp(),
        )

    def terms(self, t: int) -> Terms:
        """Those of a step."""
        return Terms(
            energy=None if self.energy is None else self.energy[t], slope=None if self.slope is None else self.slope[t]
        )
