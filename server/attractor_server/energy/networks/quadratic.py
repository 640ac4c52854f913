"""The quadratic network on tanh features: its gradients have a closed form, so serving needs no autograd."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Shapes, Start, Tensors, Terms

SPREAD = 0.7
"""Standard deviation of the leading feature before tanh, at the start"""


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    """E = ½Σqx² + x·qb − fᵀWf − b·f with f = tanh(xA + a0). Fast: W, b. Slow: A, a0, log q, qb."""

    inputs: int
    """d, entries of a pattern"""
    features: int
    """h, entries of f"""

    @property
    def kind(self) -> str:
        """Its name among the networks."""
        return "quadratic"

    @property
    def config(self) -> Mapping[str, int]:
        """Settings that make it again."""
        return {"inputs": self.inputs, "features": self.features}

    @property
    def shapes(self) -> tuple[Shapes, Shapes]:
        """Shapes of the slow tensors, and of the fast tensors of one memory."""
        d, h = self.inputs, self.features
        return {"A": (d, h), "a0": (h,), "log_q": (d,), "qb": (d,)}, {"W": (h, h), "b": (h,)}

    def start(self, start: Start) -> Tensors:
        """Start with each leading entry as a feature: random ones learn a denoiser that never looks at its memory."""
        d, h = self.inputs, self.features
        deviation = start.deviation.clamp(min=1e-6)
        a = torch.eye(d, h) * SPREAD / (deviation * deviation.max()).sqrt()[:, None]
        zeros = {"a0": (h,), "log_q": (d,), "qb": (d,), "W": (h, h), "b": (h,)}
        return {"A": a, **{name: torch.zeros(shape) for name, shape in zeros.items()}}

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """E(x; θ), (memories, patterns), of x (memories, patterns, d)."""
        f = _features(slow, x)  # (memories, patterns, h)
        bowl = (0.5 * slow["log_q"].exp() * x.square() + slow["qb"] * x).sum(-1)
        wells = (torch.bmm(f, fast["W"]) * f).sum(-1) + torch.bmm(f, fast["b"][:, :, None]).squeeze(-1)
        return bowl - wells

    def input_gradient(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """∇ₓE = qx + qb − (u ⊙ f′)Aᵀ with u = f(W + Wᵀ) + b, like x."""
        f = _features(slow, x)
        return slow["log_q"].exp() * x + slow["qb"] - (_pull(fast, f) * (1 - f.square())) @ slow["A"].T

    def write_gradient(self, slow: Tensors, fast: Tensors, x: Tensor, weight: Tensor, terms: Terms) -> Tensors:
        """∇ of Σᵢ wᵢ(εEᵢ + α‖gᵢ‖²): −fᵀ(w⊙εf) − cᵀf − fᵀc by W and −Σ(w⊙εf + c) by b, with c = 2αw(gA ⊙ f′).

        ‖∇_θE‖² does not depend on the fast weights, so that term has no effect.
        """
        f = _features(slow, x)
        c = pulled = torch.zeros_like(f)  # (memories, patterns, h)
        if terms.slope is not None:
            r = (self.input_gradient(slow, fast, x) @ slow["A"]) * (1 - f.square())
            c = pulled = (2 * terms.slope[:, None] * weight)[..., None] * r
        if terms.energy is not None:
            pulled = (terms.energy[:, None] * weight)[..., None] * f + c
        # One product of twice the rank touches the (memories, h, h) result once.
        return {"W": torch.bmm(torch.cat([f, c], 1).mT.neg(), torch.cat([pulled, f], 1)), "b": -pulled.sum(1)}


def _features(slow: Tensors, x: Tensor) -> Tensor:
    return torch.tanh(x @ slow["A"] + slow["a0"])


def _pull(fast: Tensors, f: Tensor) -> Tensor:
    """f(W + Wᵀ) + b, (memories, patterns, h): two products touch W less than its sum with its transpose."""
    return torch.baddbmm(torch.baddbmm(fast["b"][:, None], f, fast["W"]), f, fast["W"].mT)
