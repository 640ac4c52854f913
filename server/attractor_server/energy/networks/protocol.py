"""What the loops ask of an energy network, and how any network's gradients are found."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.func import grad

Tensors: TypeAlias = dict[str, Tensor]


class EnergyNetwork(Protocol):
    """A scalar energy for each pattern, from slow weights that all memories share and fast weights of each memory."""

    @property
    def kind(self) -> str:
        """Its name among `NETWORKS`."""

    @property
    def config(self) -> Mapping[str, int]:
        """What makes it again."""

    @property
    def shapes(self) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]]:
        """Shapes of the slow tensors, and of the fast tensors of one memory."""

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """E(x; θ), (memories, patterns), of x (memories, patterns, d); each fast tensor is (memories, *shape)."""


class Gradients(Protocol):
    """The two gradients that the loops descend."""

    def input_gradient(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """∇ₓE, like x (memories, patterns, d)."""

    def write_gradient(self, slow: Tensors, fast: Tensors, x: Tensor, weight: Tensor, alpha: Tensor) -> Tensors:
        """∇ of Σᵢ weightᵢ·(E(xᵢ) + α‖∇ₓE(xᵢ)‖²) by each fast tensor; weight (memories, patterns), alpha (memories,)."""


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

    def write_gradient(self, slow: Tensors, fast: Tensors, x: Tensor, weight: Tensor, alpha: Tensor) -> Tensors:
        """See `Gradients`."""

        def objective(fast: Tensors) -> Tensor:
            energy = self._network.energy(slow, fast, x)
            slope = self.input_gradient(slow, fast, x).square().sum(-1)
            return torch.sum(weight * (energy + alpha[:, None] * slope))

        gradient: Tensors = grad(objective)(fast)
        return gradient


def gradients_of(network: EnergyNetwork) -> Gradients:
    """The network's own closed form where it has one, else automatic differentiation."""
    return network if isinstance(network, WritableNetwork) else Autodiff(network)
