"""Everything meta-training learns, as tensors in named parts. What must stay positive is kept as its logarithm."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Shapes, Tensors

COUNT_UNIT = 16.0
"""Patterns at which count conditioning has no effect."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Slow weights, initial fast weights, and the parameters of the loops."""

    slow: Tensors
    initial: Tensors
    """θ₀ of one memory, without the memory dimension"""
    reader: Tensors
    """log_step (K,); momentum_logit (K,), without which descent is plain; log_proximity (K,), or no such term"""
    writer: Tensors
    """log_rate.<tensor> (T,); scalars log_clip, rate_count, rate_stored, alpha_count. For each term of the objective
    that is on, (T,): log_energy, log_alpha (gradient by the input), log_gamma (gradient by the writable parameters),
    log_beta (distance from θ₀)"""
    eraser: Tensors = field(default_factory=dict)
    """Empty where the model cannot erase; see `eraser.initial_eraser`"""
    codes: Tensors = field(default_factory=dict)
    """For each text field the codes of its characters (characters, entries)"""

    @property
    def reading_steps(self) -> int:
        """K"""
        return len(self.reader["log_step"])

    @property
    def writing_steps(self) -> int:
        """T"""
        return next((len(value) for name, value in self.writer.items() if name.startswith("log_rate.")), 0)

    def flat(self) -> Tensors:
        """Return all tensors in one dictionary, under `part.name`."""
        parts: dict[str, Tensors] = {part.name: getattr(self, part.name) for part in fields(self)}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    @classmethod
    def of(cls, flat: Mapping[str, Tensor]) -> "Parameters":
        """Gather parameters from such a dictionary, as the inverse of `flat`; other names are left out."""

        def part(prefix: str) -> Tensors:
            return {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}

        return cls(**{one.name: part(f"{one.name}.") for one in fields(cls)})

    def memories(self, count: int) -> Tensors:
        """Return initial fast weights of so many memories, each (memories, *shape)."""
        return {name: tensor.expand(count, *tensor.shape) for name, tensor in self.initial.items()}


def initial_reader(steps: int) -> Tensors:
    """γ = 0.5 and momentum 0.5 at every step."""
    return {"log_step": torch.full((steps,), 0.5).log(), "momentum_logit": torch.zeros(steps)}


TERMS = {"energy": "log_energy", "slope": "log_alpha", "parameter_slope": "log_gamma", "distance": "log_beta"}
"""Terms of the writing objective, with the names of their weights among the writer's parameters"""
_WEIGHTS = {"energy": 1.0, "slope": 1.0, "parameter_slope": 0.1, "distance": 1e-4}


def initial_writer(
    steps: int, tensors: Iterable[str], terms: Iterable[str] = ("energy", "slope", "distance")
) -> Tensors:
    """η = 0.3, α = 1, β = 1e-4 at every step, no conditioning on counts yet."""
    rates = {f"log_rate.{name}": torch.full((steps,), 0.3).log() for name in tensors}
    scalars = {name: torch.zeros(()) for name in ("rate_count", "rate_stored", "alpha_count")}
    objective = {TERMS[term]: torch.full((steps,), _WEIGHTS[term]).log() for term in terms}
    return {**rates, **objective, **scalars, "log_clip": torch.tensor(5.0).log()}


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Return the shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
