"""The bilinear network: few saturating keys tell patterns apart, many linear values say what they are.

The quadratic network's fast matrix is symmetric in effect, so half of it is spent twice, and it pulls along its
features only. Here each fast weight counts once, and the pull reaches every direction that the values span.

Behind a whitening a trained V hardly differs from a choice of the leading entries, each at a scale of its own (in a
model of embeddings the rest of it holds 1 % of its square). Where that is all that V may be, it is `entrywise`, and a
reading step takes a third of the operations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from attractor_server.energy.networks.protocol import Shapes, Start, Tensors, Terms


@dataclass(frozen=True, kw_only=True)
class Bilinear:
    """E = ½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + a0). Fast: W, b. Slow: A, a0, V, log q, qb.

    Entrywise, V is a vector: vᵢ = Vᵢxᵢ for the leading entries.
    """

    inputs: int
    """d, entries of a pattern"""
    keys: int
    """entries of k"""
    values: int
    """entries of v"""
    entrywise: bool = False

    def __post_init__(self) -> None:
        if self.entrywise and self.values > self.inputs:
            raise ValueError(f"values: saw {self.values}; expected at most {self.inputs}, one for each entry")

    @property
    def kind(self) -> str:
        """Its name among the networks."""
        return "bilinear"

    @property
    def config(self) -> Mapping[str, int]:
        """What makes it again."""
        sizes = {"inputs": self.inputs, "keys": self.keys, "values": self.values}
        return {**sizes, "entrywise": True} if self.entrywise else sizes

    @property
    def shapes(self) -> tuple[Shapes, Shapes]:
        """Shapes of the slow tensors, and of the fast tensors of one memory."""
        d, k, v = self.inputs, self.keys, self.values
        slow = {"A": (d, k), "a0": (k,), "V": (v,) if self.entrywise else (d, v), "log_q": (d,), "qb": (d,)}
        return slow, {"W": (v, k), "b": (v,)}

    def start(self, start: Start) -> Tensors:
        """Keys along the leading entries with a deviation of 1 before tanh; values are the leading entries."""
        d, k, v = self.inputs, self.keys, self.values
        a = torch.eye(d, k) / start.deviation[:, None].clamp(min=1e-6)
        zeros = {"a0": (k,), "log_q": (d,), "qb": (d,), "W": (v, k), "b": (v,)}
        chosen = torch.ones(v) if self.entrywise else torch.eye(d, v)
        return {"A": a, "V": chosen, **{name: torch.zeros(shape) for name, shape in zeros.items()}}

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """E(x; θ), (memories, patterns), of x (memories, patterns, d)."""
        bowl = (0.5 * slow["log_q"].exp() * x.square() + slow["qb"] * x).sum(-1)
        return bowl - (_recalled(fast, _keys(slow, x)) * values_of(slow["V"], x)).sum(-1)

    def input_gradient(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """∇ₓE = qx + qb − (Wk + b)Vᵀ − (vW ⊙ k′)Aᵀ, like x."""
        return self._slope(slow, fast, x, _keys(slow, x), values_of(slow["V"], x))

    def write_gradient(self, slow: Tensors, fast: Tensors, x: Tensor, weight: Tensor, terms: Terms) -> Tensors:
        """∇ of Σᵢ wᵢ(εEᵢ + α‖gᵢ‖²): −(w⊙εv + c)ᵀk − vᵀe by W and −Σ(w⊙εv + c) by b, c = 2αw·gV, e = 2αw·gA ⊙ k′.

        ‖∇_θE‖² does not depend on the fast weights, so that term has no effect.
        """
        k, v = _keys(slow, x), values_of(slow["V"], x)  # (memories, patterns, ·)
        pulled, pushed = torch.zeros_like(v), torch.zeros_like(k)
        if terms.energy is not None:
            pulled = (terms.energy[:, None] * weight)[..., None] * v
        if terms.slope is not None:
            slope = self._slope(slow, fast, x, k, v)
            strength = (2 * terms.slope[:, None] * weight)[..., None]
            pulled = torch.addcmul(pulled, strength, values_of(slow["V"], slope))
            pushed = strength * (slope @ slow["A"]) * (1 - k.square())
        # One product of twice the rank touches the (memories, values, keys) result once.
        w = torch.bmm(torch.cat([pulled, v], 1).mT.neg(), torch.cat([k, pushed], 1))
        return {"W": w, "b": -pulled.sum(1)}

    def _slope(self, slow: Tensors, fast: Tensors, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pushed = torch.bmm(v, fast["W"]) * (1 - k.square())
        bowl = torch.addcmul(slow["qb"], slow["log_q"].exp(), x)
        return bowl - entries_of(slow["V"], _recalled(fast, k), self.inputs) - pushed @ slow["A"].T


def values_of(v: Tensor, x: Tensor) -> Tensor:
    """xV, (…, values), of x (…, d)."""
    return x @ v if v.dim() == 2 else x[..., : len(v)] * v


def entries_of(v: Tensor, values: Tensor, inputs: int) -> Tensor:
    """values·Vᵀ, (…, d), of values (…, values)."""
    return values @ v.T if v.dim() == 2 else pad(values * v, (0, inputs - len(v)))


def _keys(slow: Tensors, x: Tensor) -> Tensor:
    return torch.tanh(x @ slow["A"] + slow["a0"])


def _recalled(fast: Tensors, k: Tensor) -> Tensor:
    """Wk + b, (memories, patterns, values)."""
    return torch.baddbmm(fast["b"][:, None], k, fast["W"].mT)
