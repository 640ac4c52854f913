"""The networks that the loops are tested with, each with its oracle: the energy of one pattern, as it stands on paper.

Another network is one more line in `CASES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.protocol import Shapes, Tensors
from attractor_server.energy.networks.quadratic import Quadratic

Divided = tuple[Shapes, Shapes]


@dataclass(frozen=True)
class Case:
    """A network under test, and its energy of a single pattern (d,) in a single memory, a scalar."""

    network: EnergyNetwork
    oracle: Callable[[Tensors, Tensors, Tensor], Tensor]
    inputs: int
    curved: bool = False
    """Whether its gradient by the fast weights depends on these"""

    @property
    def looped(self) -> EnergyNetwork:
        """The same network as the oracle computes it, which shares no code with what is tested."""
        return Looped(self.network, self.oracle)


@dataclass(frozen=True)
class Generic:
    """A network without its closed form, so that its gradients are those of torch.func."""

    network: EnergyNetwork

    @property
    def kind(self) -> str:
        return self.network.kind

    @property
    def config(self) -> Mapping[str, object]:
        return self.network.config

    @property
    def shapes(self) -> Divided:
        return self.network.shapes

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        return self.network.energy(slow, fast, x)


@dataclass(frozen=True)
class Looped(Generic):
    """A network whose energy is the oracle's, pattern by pattern."""

    oracle: Callable[[Tensors, Tensors, Tensor], Tensor]

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        rows = []
        for memory, patterns in enumerate(x):
            own = {name: value[memory] for name, value in fast.items()}
            rows.append(torch.stack([self.oracle(slow, own, pattern) for pattern in patterns]))
        return torch.stack(rows)


@dataclass(frozen=True)
class Perceptron:
    """E = ½‖x‖² + w·softplus(tanh(xV + v)U + u): its highest layers U, u and w are fast, V and v are slow."""

    inputs: int
    features: int
    units: int
    kind: str = "perceptron"

    @property
    def config(self) -> Mapping[str, object]:
        return {"inputs": self.inputs, "features": self.features, "units": self.units}

    @property
    def shapes(self) -> Divided:
        d, h, n = self.inputs, self.features, self.units
        return {"V": (d, h), "v": (h,)}, {"U": (h, n), "u": (n,), "w": (n,)}

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        features = torch.tanh(x @ slow["V"] + slow["v"])
        units = softplus(torch.bmm(features, fast["U"]) + fast["u"][:, None])
        return 0.5 * x.square().sum(-1) + (units * fast["w"][:, None]).sum(-1)


def quadratic_energy(slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
    """½Σqx² + x·qb − fᵀWf − b·f with f = tanh(xA + a0)."""
    f = torch.tanh(slow["A"].T.mv(x) + slow["a0"])
    q = torch.exp(slow["log_q"])
    return torch.sum(q * x**2) / 2 + x.dot(slow["qb"]) - f.dot(fast["W"].mv(f)) - fast["b"].dot(f)


def bilinear_energy(slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
    """½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + a0)."""
    k, v = torch.tanh(slow["A"].T.mv(x) + slow["a0"]), slow["V"].T.mv(x)
    q = torch.exp(slow["log_q"])
    return torch.sum(q * x**2) / 2 + x.dot(slow["qb"]) - v.dot(fast["W"].mv(k)) - fast["b"].dot(v)


def perceptron_energy(slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
    """½‖x‖² + w·softplus(tanh(xV + v)U + u)."""
    features = torch.tanh(slow["V"].T.mv(x) + slow["v"])
    return x.dot(x) / 2 + fast["w"].dot(torch.log(1 + torch.exp(fast["U"].T.mv(features) + fast["u"])))


def cases(*, inputs: int, features: int) -> dict[str, Case]:
    """Every network and path, by name."""
    quadratic = Quadratic(inputs=inputs, features=features)
    bilinear = Bilinear(inputs=inputs, keys=features, values=features + 1)
    perceptron = Perceptron(inputs, features, units=features + 1)
    return {
        "quadratic in closed form": Case(quadratic, quadratic_energy, inputs),
        "quadratic by autodiff": Case(Generic(quadratic), quadratic_energy, inputs),
        "bilinear in closed form": Case(bilinear, bilinear_energy, inputs),
        "bilinear by autodiff": Case(Generic(bilinear), bilinear_energy, inputs),
        "perceptron by autodiff": Case(perceptron, perceptron_energy, inputs, curved=True),
    }


SMALL = cases(inputs=4, features=3)
WIDE = cases(inputs=48, features=40)
"""Wide enough for the kernels of real products, which small ones do not reach"""
