"""The networks that the loops are tested with, each with its oracle: the energy of one pattern, as it stands on paper.

Another network is one more function for its energy and one more line in `cases`, or in `deep_cases` if it has several
layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.convolutional import Convolutional
from attractor_server.energy.networks.mlp import MLP
from attractor_server.energy.networks.protocol import Shapes, Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.networks.recurrent import Recurrent

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
    """½Σqx² + x·qb − vᵀWk − b·v with v = xV, or Vᵢxᵢ where V is a vector, and k = tanh(xA + a0)."""
    return _bilinear_energy(slow, fast, x, torch.tanh(slow["A"].T.mv(x) + slow["a0"]))


def waves_energy(waves: int) -> Callable[[Tensors, Tensors, Tensor], Tensor]:
    """The same where the last entries of k are sin(xA + a0)."""

    def energy(slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        z = slow["A"].T.mv(x) + slow["a0"]
        kept = len(z) - waves
        return _bilinear_energy(slow, fast, x, torch.cat([torch.tanh(z[:kept]), torch.sin(z[kept:])]))

    return energy


def _bilinear_energy(slow: Tensors, fast: Tensors, x: Tensor, k: Tensor) -> Tensor:
    """With v = u / √(1 + c·mean u²) where there is a c."""
    u = slow["V"]
    u = u * x[: len(u)] if u.dim() == 1 else u.T.mv(x)
    v = u / torch.sqrt(1 + torch.exp(slow["log_c"][0]) * u.dot(u) / len(u)) if "log_c" in slow else u
    q = torch.exp(slow["log_q"])
    return torch.sum(q * x**2) / 2 + x.dot(slow["qb"]) - v.dot(fast["W"].mv(k)) - fast["b"].dot(v)


def perceptron_energy(slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
    """½‖x‖² + w·softplus(tanh(xV + v)U + u)."""
    features = torch.tanh(slow["V"].T.mv(x) + slow["v"])
    return x.dot(x) / 2 + fast["w"].dot(torch.log(1 + torch.exp(fast["U"].T.mv(features) + fast["u"])))


def bowl_energy(weights: Tensors, x: Tensor) -> Tensor:
    """½Σqx² + x·qb."""
    return torch.sum(torch.exp(weights["bowl.log_q"]) * x**2) / 2 + x.dot(weights["bowl.qb"])


def head_energy(weights: Tensors, x: Tensor, below: Tensor) -> Tensor:
    """½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + below·H + a0)."""
    k = torch.tanh(weights["keys.A"].T.mv(x) + weights["keys.H"].T.mv(below) + weights["keys.a0"])
    v = weights["values.V"].T.mv(x)
    return bowl_energy(weights, x) - v.dot(weights["head.W"].mv(k)) - weights["head.b"].dot(v)


def mlp_energy(slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
    """½Σqx² + x·qb + w·softplus(softplus(xA₁ + a₁)A₂ + a₂)."""
    weights = {**slow, **fast}
    one = torch.log(1 + torch.exp(weights["layer1.A"].T.mv(x) + weights["layer1.a"]))
    two = torch.log(1 + torch.exp(weights["layer2.A"].T.mv(one) + weights["layer2.a"]))
    return bowl_energy(weights, x) + weights["head.w"].dot(two)


def convolved(image: Tensor, kernel: Tensor, bias: Tensor, *, stride: int) -> Tensor:
    """Pixel by pixel: what the kernel finds in the 3×3 neighbourhood, (channels, height, width)."""
    _, height, width = image.shape
    padded = pad(image, (1, 1, 1, 1))
    rows = []
    for row in range(0, height, stride):
        near = [padded[:, row : row + 3, column : column + 3] for column in range(0, width, stride)]
        rows.append(torch.stack([kernel.flatten(1).mv(one.flatten()) + bias for one in near], 1))
    return torch.stack(rows, 1)


def convolutional_energy(image: tuple[int, ...]) -> Callable[[Tensors, Tensors, Tensor], Tensor]:
    """The bilinear energy over one convolution and one residual block."""

    def energy(slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        w = {**slow, **fast}
        c = convolved(w["lift"].T.mv(x).reshape(image), w["conv.kernel"], w["conv.bias"], stride=2)
        c = c + convolved(torch.tanh(c), w["block1.kernel"], w["block1.bias"], stride=1)
        return head_energy(w, x, torch.tanh(c).flatten())

    return energy


def recurrent_energy(width: int) -> Callable[[Tensors, Tensors, Tensor], Tensor]:
    """The bilinear energy over what torch's own gated cell has seen from the front and from the back."""

    def energy(slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        w = {**slow, **fast}
        frames = w["lift"].T.mv(x).reshape(-1, width)
        states = {name: gated(w, name, order) for name, order in (("forward", frames), ("backward", frames.flip(0)))}
        below = [torch.cat([one, other]) for one, other in zip(states["forward"], states["backward"], strict=True)]
        return head_energy(w, x, torch.cat(below))

    return energy


def gated(weights: Tensors, name: str, frames: Tensor) -> list[Tensor]:
    """The states (hidden,) of torch's gated cell after each frame (width,)."""
    kernel, recurrence, bias = (weights[f"{name}.{part}"] for part in ("input", "state", "bias"))
    h = torch.zeros_like(recurrence[:1, : len(recurrence)])
    states = []
    for frame in frames:
        h = torch.gru_cell(frame[None], h, kernel.T, recurrence.T, bias, torch.zeros_like(bias))
        states.append(h[0])
    return states


def deep_cases(*, inputs: int, features: int) -> dict[str, Case]:
    """Networks of several layers; the perceptron writes into all of them, the others into the highest."""
    side = ceil(inputs**0.5) + 1
    image, keys, values = (1, side, side - 1), features, features + 1
    mlp = MLP(inputs=inputs, widths=(keys, values))
    convolutional = Convolutional(inputs=inputs, image=image, channels=2, blocks=1, keys=keys, values=values)
    recurrent = Recurrent(inputs=inputs, steps=3, width=2, hidden=2, keys=keys, values=values)
    return {
        "mlp": Case(mlp, mlp_energy, inputs, curved=True),
        "convolutional": Case(convolutional, convolutional_energy(image), inputs),
        "recurrent": Case(recurrent, recurrent_energy(2), inputs),
    }


def cases(*, inputs: int, features: int) -> dict[str, Case]:
    """Every network and path, by name."""
    quadratic = Quadratic(inputs=inputs, features=features)
    bilinear = Bilinear(inputs=inputs, keys=features, values=features + 1)
    entrywise = Bilinear(inputs=inputs, keys=features, values=features + 1, entrywise=True)
    wavy = Bilinear(inputs=inputs, keys=features, values=features + 1, waves=features // 2, bounded=True)
    perceptron = Perceptron(inputs, features, units=features + 1)
    return {
        "quadratic in closed form": Case(quadratic, quadratic_energy, inputs),
        "quadratic by autodiff": Case(Generic(quadratic), quadratic_energy, inputs),
        "bilinear in closed form": Case(bilinear, bilinear_energy, inputs),
        "bilinear by autodiff": Case(Generic(bilinear), bilinear_energy, inputs),
        "entrywise bilinear in closed form": Case(entrywise, bilinear_energy, inputs),
        "entrywise bilinear by autodiff": Case(Generic(entrywise), bilinear_energy, inputs),
        "bounded bilinear with sines": Case(wavy, waves_energy(features // 2), inputs),
        "perceptron by autodiff": Case(perceptron, perceptron_energy, inputs, curved=True),
        **deep_cases(inputs=inputs, features=features),
    }


SMALL = cases(inputs=4, features=3)
WIDE = cases(inputs=48, features=40)
"""Wide enough for the kernels of real products, which small ones do not reach"""
