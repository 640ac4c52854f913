"""Protocols of energy networks for the loops, and the gradients of any network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.func import grad, vmap

Tensors: TypeAlias = dict[str, Tensor]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Weights of the writing objective's terms, (memories,) each; None where the term is switched off."""

    energy: Tensor | None = None
    """Of E"""
    slope: Tensor | None = None
    """Of ‖∇ₓE‖², the gradient by the input (the paper's)"""
    parameter_slope: Tensor | None = None
    """Of ‖∇_θE‖², the gradient by the writable parameters (claims 3, 4)"""


class EnergyNetwork(Protocol):
    """A scalar energy for each pattern, from slow weights that all memories share and fast weights of each memory."""

    @property
    def kind(self) -> str:
        """Its name among `NETWORKS`."""

    @property
    def config(self) -> Mapping[str, object]:
        """Settings that make it again; JSON values."""

    @property
    def shapes(self) -> tuple[Shapes, Shapes]:
        """Shapes of the slow tensors, and of the fast tensors of one memory."""

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """E(x; θ), (memories, patterns), of x (memories, patterns, d); each fast tensor is (memories, *shape)."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Facts of the training data that a network may start from."""

    deviation: Tensor
    """(entries,), standard deviation of each entry"""
    lift: Tensor
    """(entries, values): from network units to scaled values, which lie as the field has them"""
    generator: Generator


@runtime_checkable
class TrainableNetwork(EnergyNetwork, Protocol):
    """A network that says where meta-training starts from."""

    def start(self, start: Start) -> Tensors:
        """Every weight, slow and fast, by name."""


class Gradients(Protocol):
    """The two gradients that the loops descend."""

    def input_gradient(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """∇ₓE, like x (memories, patterns, d)."""

    def write_gradient(self, slow: Tensors, fast: Tensors, x: Tensor, weight: Tensor, terms: Terms) -> Tensors:
        """∇ of Σᵢ weightᵢ·(the terms of xᵢ) by each fast tensor; weight (memories, patterns)."""


@runtime_checkable
class WritableNetwork(EnergyNetwork, Gradients, Protocol):
    """A network that knows its gradients in closed form."""


class Autodiff:
    """The gradients of any network, by torch.func."""

    def __init__(self, network: EnergyNetwork) -> None:
        self._network = network

    def input_gradient(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """See `Gradients`; patterns do not touch one another, so the gradient of the sum holds that of each."""
        gradient: Tensor = grad(lambda x: self._network.energy(slow, fast, x).sum())(x)
        return gradient

    def write_gradient(self, slow: Tensors, fast: Tensors, x: Tensor, weight: Tensor, terms: Terms) -> Tensors:
        """See `Gradients`."""

        def objective(fast: Tensors) -> Tensor:
            total = torch.zeros_like(weight)
            if terms.energy is not None:
                total = total + terms.energy[:, None] * self._network.energy(slow, fast, x)
            if terms.slope is not None:
                total = total + terms.slope[:, None] * self.input_gradient(slow, fast, x).square().sum(-1)
            if terms.parameter_slope is not None:
                total = total + terms.parameter_slope[:, None] * self._parameter_slope(slow, fast, x)
            return torch.sum(weight * total)

        gradient: Tensors = grad(objective)(fast)
        return gradient

    def _parameter_slope(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """‖∇_θE‖² over all fast tensors, (memories, patterns)."""

        def slope(own: Tensors, pattern: Tensor) -> Tensor:
            gradients = grad(lambda own: self._alone(slow, own, pattern))(own)
            return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum()

        slopes: Tensor = vmap(vmap(slope, (None, 0)))(fast, x)
        return slopes

    def _alone(self, slow: Tensors, own: Tensors, pattern: Tensor) -> Tensor:
        fast = {name: value[None] for name, value in own.items()}
        return self._network.energy(slow, fast, pattern[None, None])[0, 0]


def gradients_of(network: EnergyNetwork) -> Gradients:
    """Return the network's own closed form where it has one, else automatic differentiation."""
    return network if isinstance(network, WritableNetwork) else Autodiff(network)


def by_memory(energy: Callable[..., Tensor], slow: Tensors, fast: Tensors, *seen: Tensor) -> Tensor:
    """Compute energies (memories, patterns) by `energy`, which takes one memory's weights and its patterns.

    That is each of `seen`, (memories, patterns, …), without the first dimension.
    """
    energies: Tensor = vmap(lambda own, *parts: energy({**slow, **own}, *parts))(fast, *seen)
    return energies


def divide_weights(shapes: Shapes, writable: tuple[str, ...]) -> tuple[Shapes, Shapes]:
    """Divide tensors into slow and fast; `writable` names tensors, or layers: what stands before a dot (claims 6, 7).

    Raises:
        ValueError: a name fits no tensor, or the writable set is no proper subset.
    """
    layers = {name.partition(".")[0] for name in shapes}
    if unknown := [name for name in writable if name not in shapes and name not in layers]:
        raise ValueError(f"writable {unknown[0]!r}; expected some of {sorted({*shapes, *layers})}")
    fast = {name: shape for name, shape in shapes.items() if name in writable or name.partition(".")[0] in writable}
    slow = {name: shape for name, shape in shapes.items() if name not in fast}
    if not fast or not slow:
        raise ValueError(f"writable {list(writable)}; expected some of the tensors, not {'all' if fast else 'none'}")
    return slow, fast
