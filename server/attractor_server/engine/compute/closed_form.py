"""Closed forms of networks: energy, slope and writing share with shared intermediate results."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors, Terms
from attractor_server.energy.parameters import COUNT_UNIT, Parameters
from attractor_server.energy.reader import Reading
from attractor_server.energy.transform import Hold
from attractor_server.engine.compute.native_model import NativeModel


def squash(doubled: Tensor) -> Tensor:
    """Compute tanh z of 2z, in its place, as 2σ(2z) − 1: on a CPU that takes half of tanh's time."""
    return doubled.sigmoid_().mul_(2).sub_(1)


def bend(f: Tensor) -> Tensor:
    """Compute tanh′ where tanh is f: 1 − f²."""
    return torch.addcmul(f.new_ones(()), f, f, value=-1)


def bowl(q: Tensor, qb: Tensor, x: Tensor) -> Tensor:
    """Compute ½Σqx² + x·qb, (pages, patterns), of x (pages, patterns, d)."""
    return torch.addcmul(qb + qb, q, x).mul_(x).sum(-1).mul_(0.5)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Size, momentum and weight of the proximity term of each step; steps beyond those trained repeat the last."""

    sizes: list[float]
    momenta: list[float]
    proximities: list[float] | None
    """None where the model has no such term"""

    @classmethod
    def of(cls, reader: Tensors) -> "Schedule":
        """Turn the reader's tensors into numbers, which cost no operation of their own."""
        sizes = reader["log_step"].exp().tolist()
        return cls(
            sizes=sizes,
            momenta=reader["momentum_logit"].sigmoid().tolist() if "momentum_logit" in reader else [0.0] * len(sizes),
            proximities=reader["log_proximity"].exp().tolist() if "log_proximity" in reader else None,
        )

    def at(self, step: int) -> tuple[float, float, float | None]:
        """Return size, momentum and proximity of a step from 0 on."""
        k = min(step, len(self.sizes) - 1)
        return self.sizes[k], self.momenta[k], None if self.proximities is None else self.proximities[k]


@dataclass(frozen=True, kw_only=True, eq=False)
class WritingSchedule:
    """Weights of the steps of one writing, conditioned on how much each page is given and holds."""

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

        def condition(name: str, exponent: Tensor) -> Tensor | None:
            return (writer[name][:, None] + exponent).exp() if name in writer else None

        return cls(
            weight=weight,
            rates={name: (writer[f"log_rate.{name}"][:, None] + conditioning).exp() for name in parameters.initial},
            energy=condition("log_energy", torch.zeros_like(now)),
            slope=condition("log_alpha", writer["alpha_count"] * now),
            distances=(2 * writer["log_beta"].exp()).tolist()
            if "log_beta" in writer
            else [0.0] * parameters.writing_steps,
            limit=writer["log_clip"].exp(),
        )

    def terms(self, t: int) -> Terms:
        """Return the terms of a step."""
        return Terms(
            energy=None if self.energy is None else self.energy[t], slope=None if self.slope is None else self.slope[t]
        )


class Evaluation(Protocol):
    """The energy at patterns x (pages, patterns, d), as far as it has been computed."""

    def slope(self) -> Tensor:
        """∇ₓE, like x; the caller's own."""

    def energy(self) -> Tensor:
        """E(x; θ), (pages, patterns)."""

    def gap(self) -> Tensor:
        """E(x; θ) − E(x; θ₀), (pages, patterns)."""


class WriteTerms(Protocol):
    """Terms of patterns that are being written, which all steps share."""

    def slopes(self, fast: Tensors, distance: float, initial: Tensors, weight: Tensor, terms: Terms) -> Tensors:
        """∇_θ of Σᵢ weightᵢ·(the terms of xᵢ) + ½·distance·‖θ − θ₀‖²; the caller's own."""


class ClosedForm(Protocol):
    """A model's energy, with all that does not depend on pages prepared."""

    SETTINGS: ClassVar[frozenset[str]]
    """Settings of the network that it knows"""

    @classmethod
    def of(cls, network: Any, parameters: Parameters) -> Self:  # noqa: ANN401 - of the type that it stands beside
        """Prepare what all pages share."""

    def evaluate(self, fast: Tensors, x: Tensor) -> Evaluation:
        """Evaluate the energy of each page at its patterns."""

    def prepare_write(self, x: Tensor) -> WriteTerms:
        """Compute the terms that writing x (pages, patterns, d) needs in all steps."""

    def native_model(self) -> NativeModel | None:
        """Describe it for the native library's reading loop; None where its lengths do not fit, or there is no loop."""

    def make_writing_kernel(self) -> "WritingKernel | None":
        """Make the kernel of its writing loop on a CPU; None where there is none."""


class Kernel(Protocol):
    """Kernel that takes all steps of a reading in one go."""

    def takes(self, x: Tensor) -> bool:
        """Return whether it fits patterns like these (pages, patterns, d)."""

    def read(self, fast: Tensors, x: Tensor, *, steps: int) -> Reading:
        """See `energy.reader.read`."""


@runtime_checkable
class InPlaceKernel(Kernel, Protocol):
    """Reads pages where they lie, and puts known values back after each step."""

    @property
    def in_order(self) -> bool:
        """Whether it goes through W as that lies in memory; if not, it wants W in the cache before, as a copy is."""

    def holds(self, hold: Hold) -> bool:
        """Return whether it can put these values back."""

    def evaluate_at(self, fast: Tensors, places: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute E(x; θ) and E(x; θ) − E(x; θ₀), (pages, patterns) each, in pages as of `read_at`."""

    def read_at(
        self, fast: Tensors, places: Tensor | None, x: Tensor, *, steps: int, hold: Hold | None = None
    ) -> Reading:
        """Read with page i at `places`[i], (pages,) int64, of each tensor (places, *shape); without places at i."""


class WritingKernel(Protocol):
    """Kernel that takes all steps of a writing in one go."""

    def takes(self, x: Tensor) -> bool:
        """Return whether it fits patterns like these (pages, patterns, d)."""

    def write(self, ground: WriteTerms, fast: Tensors, schedule: WritingSchedule, *, out: Tensors) -> None:
        """Write, and put the new fast weights in `out`, each (pages, *shape)."""
