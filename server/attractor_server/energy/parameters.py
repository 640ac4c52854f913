"""Everything meta-training learns, as tensors in four parts. What must stay positive is kept as its logarithm."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors

COUNT_UNIT = 16.0
"""Patterns at which count conditioning has no effect."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Slow weights, initial fast weights, and the parameters of the two loops."""

    slow: Tensors
    initial: Tensors
    """θ₀ of one memory, without the memory dimension"""
    reader: Tensors
    """log_step (K,) and momentum_logit (K,)"""
    writer: Tensors
    """log_rate.<tensor>, log_alpha, log_beta (T,); scalars log_clip, rate_count, rate_stored, alpha_count"""

    @property
    def reading_steps(self) -> int:
        """K"""
        return len(self.reader["log_step"])

    @property
    def writing_steps(self) -> int:
        """T"""
        return len(self.writer["log_alpha"])

    def flat(self) -> Tensors:
        """All tensors in one dictionary, under `part.name`."""
        parts = {"slow": self.slow, "initial": self.initial, "reader": self.reader, "writer": self.writer}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    @classmethod
    def of(cls, flat: Mapping[str, Tensor]) -> "Parameters":
        """The inverse of `flat`; other names are left out."""

        def part(prefix: str) -> Tensors:
            return {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}

        return cls(slow=part("slow."), initial=part("initial."), reader=part("reader."), writer=part("writer."))

    def memories(self, count: int) -> Tensors:
        """Initial fast weights of so many memories, each (memories, *shape)."""
        return {name: tensor.expand(count, *tensor.shape) for name, tensor in self.initial.items()}


def initial_reader(steps: int) -> Tensors:
    """γ = 0.5 and momentum 0.5 at every step."""
    return {"log_step": torch.full((steps,), 0.5).log(), "momentum_logit": torch.zeros(steps)}


def initial_writer(steps: int, tensors: Iterable[str]) -> Tensors:
    """η = 0.3, α = 1, β = 1e-4 at every step, no conditioning on counts yet."""
    rates = {f"log_rate.{name}": torch.full((steps,), 0.3).log() for name in tensors}
    scalars = {name: torch.zeros(()) for name in ("rate_count", "rate_stored", "alpha_count")}
    objective = {"log_alpha": torch.zeros(steps), "log_beta": torch.full((steps,), 1e-4).log()}
    return {**rates, **objective, **scalars, "log_clip": torch.tensor(5.0).log()}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
