"""The multilayer perceptron with one scalar output, the plainest energy network: all of its layers can be written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from attractor_server.energy.networks.heads import bowl, scatter
from attractor_server.energy.networks.protocol import Shapes, Start, Tensors, by_memory, divide_weights

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "softplus": softplus}
"""Those with a second derivative, which writing needs"""


@dataclass(frozen=True, kw_only=True)
class MLP:
    """E = ½Σqx² + x·qb + w·σ(…σ(xA₁ + a₁)A₂ + a₂…), layers `bowl`, `layer1`, `layer2`, …, `head`.

    Raises:
        ValueError: no layers, an activation that is not known, or a wrong writable set.
    """

    inputs: int
    """d, entries of a pattern"""
    widths: tuple[int, ...]
    """Units of each hidden layer"""
    activation: str = "softplus"
    """One of `ACTIVATIONS`"""
    writable: tuple[str, ...] | None = None
    """Tensors or layers that are fast; None is all layers but the bowl. The head alone learns slowly"""

    def __post_init__(self) -> None:
        if not self.widths:
            raise ValueError("widths []; expected one hidden layer or more")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r}; expected one of {sorted(ACTIVATIONS)}")
        _ = self.shapes

    @property
    def kind(self) -> str:
        """Its name among the networks."""
        return "mlp"

    @property
    def config(self) -> Mapping[str, object]:
        """Settings that make it again."""
        writable = None if self.writable is None else list(self.writable)
        return {
            "inputs": self.inputs,
            "widths": list(self.widths),
            "activation": self.activation,
            "writable": writable,
        }

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the hidden layers, lowest first."""
        return tuple(f"layer{place}" for place in range(1, len(self.widths) + 1))

    @property
    def shapes(self) -> tuple[Shapes, Shapes]:
        """Shapes of the slow tensors, and of the fast tensors of one memory."""
        return divide_weights(self._shapes, (*self.layers, "head") if self.writable is None else self.writable)

    def start(self, start: Start) -> Tensors:
        """Random layers over entries of deviation 1, in a bowl of curvature 1."""
        tensors = {
            name: scatter(shape, start.generator) if name == "head.w" or name.endswith(".A") else torch.zeros(shape)
            for name, shape in self._shapes.items()
        }
        tensors["layer1.A"] /= start.deviation[:, None].clamp(min=1e-6)
        return tensors

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """E(x; θ), (memories, patterns), of x (memories, patterns, d)."""
        return by_memory(self._energy, slow, fast, x)

    @property
    def _shapes(self) -> Shapes:
        shapes: dict[str, tuple[int, ...]] = {"bowl.log_q": (self.inputs,), "bowl.qb": (self.inputs,)}
        for layer, below, width in zip(self.layers, (self.inputs, *self.widths), self.widths, strict=False):
            shapes |= {f"{layer}.A": (below, width), f"{layer}.a": (width,)}
        return {**shapes, "head.w": (self.widths[-1],)}

    def _energy(self, weights: Tensors, x: Tensor) -> Tensor:
        activation, units = ACTIVATIONS[self.activation], x
        for layer in self.layers:
            units = activation(units @ weights[f"{layer}.A"] + weights[f"{layer}.a"])
        return bowl(weights, x) + units @ weights["head.w"]
