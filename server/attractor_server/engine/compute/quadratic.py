"""The quadratic network's closed form, E = ½Σqx² + x·qb − fᵀWf − b·f with f = tanh(xA + a0).

All that writing and erasing ever add to W is symmetric: W − Wᵀ stays what it is in W₀, and the same for all pages. So
f(W + Wᵀ) = 2fW − f(W₀ − W₀ᵀ), one product with each page's weights where there were two.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors, Terms
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters
from attractor_server.engine.compute.closed_form import WritingKernel, bend, bowl, squash
from attractor_server.engine.compute.native_model import PANEL, NativeModel, panels

ROUNDING = 1e-6
"""How far W₀ may be from symmetric, as a part of its largest entry, and count as symmetric: training leaves it so"""


@dataclass(frozen=True, kw_only=True, eq=False)
class QuadraticForm:
    """A model's tensors in the forms that its loops use."""

    SETTINGS: ClassVar = frozenset({"inputs", "features"})

    a: Tensor
    """A, (d, h)"""
    a0: Tensor
    q: Tensor
    qb: Tensor
    turn: Tensor | None
    """W₀ − W₀ᵀ, (h, h); None where it vanishes"""
    empty: Tensor
    """W₀ + W₀ᵀ, (h, h)"""
    b0: Tensor
    gram: Tensor
    """AᵀA, (h, h)"""

    @classmethod
    def of(cls, network: Quadratic, parameters: Parameters) -> "QuadraticForm":
        """Prepare what all pages share."""
        slow, w0 = parameters.slow, parameters.initial["W"]
        turn = w0 - w0.mT
        return cls(
            a=slow["A"].contiguous(),
            a0=slow["a0"],
            q=slow["log_q"].exp(),
            qb=slow["qb"],
            turn=turn if turn.abs().max() > ROUNDING * w0.abs().max() else None,
            empty=w0 + w0.mT,
            b0=parameters.initial["b"],
            gram=slow["A"].mT @ slow["A"],
        )

    def features(self, x: Tensor) -> Tensor:
        """f, (pages, patterns, h)."""
        return squash(torch.addmm(self.a0, x.flatten(0, 1), self.a, beta=2, alpha=2)).view(*x.shape[:2], -1)

    def pull(self, fast: Tensors, f: Tensor) -> Tensor:
        """f(W + Wᵀ) + b, like f."""
        u = torch.baddbmm(fast["b"][:, None], f, fast["W"], alpha=2)
        if self.turn is not None:
            u.flatten(0, 1).addmm_(f.flatten(0, 1), self.turn, alpha=-1)
        return u

    def evaluate(self, fast: Tensors, x: Tensor) -> "QuadraticEvaluation":
        """See `ClosedForm`."""
        f = self.features(x)
        return QuadraticEvaluation(self, fast, x, f, self.pull(fast, f))

    def prepare_write(self, x: Tensor) -> "QuadraticWriteTerms":
        """See `ClosedForm`."""
        f = self.features(x)
        along = torch.addcmul(self.qb, self.q, x.flatten(0, 1)) @ self.a
        return QuadraticWriteTerms(self, f, along.view_as(f))

    def native_model(self) -> NativeModel | None:
        """See `ClosedForm`."""
        d, h = self.a.shape
        if d % PANEL or h % PANEL:
            return None
        tensors = {
            "a": panels(self.a),
            "a_t": panels(self.a.mT),
            "a0": self.a0.contiguous(),
            "b0": self.b0.contiguous(),
            "turn": None if self.turn is None else panels(self.turn),
            "empty": panels(self.empty),
        }
        return NativeModel(
            name="quadratic",
            sizes={"h": h},
            tensors=tensors,
            q=self.q.contiguous(),
            qb=self.qb.contiguous(),
            room=4 * d + 3 * h,
            in_order=False,
        )

    def make_writing_kernel(self) -> WritingKernel | None:
        """None: its small products are quick on tensors."""
        return None


@dataclass(frozen=True, eq=False)
class QuadraticEvaluation:
    """See `Evaluation`."""

    form: QuadraticForm
    fast: Tensors
    x: Tensor
    f: Tensor
    u: Tensor
    """f(W + Wᵀ) + b"""

    def slope(self) -> Tensor:
        """qx + qb − (u ⊙ f′)Aᵀ."""
        gradient = torch.addcmul(self.form.qb, self.form.q, self.x)
        pulled = bend(self.f).mul_(self.u)
        gradient.flatten(0, 1).addmm_(pulled.flatten(0, 1), self.form.a.mT, alpha=-1)
        return gradient

    def energy(self) -> Tensor:
        """½x·(qx + 2qb) − ½f·(u + b), since fᵀWf = ½f·(u − b)."""
        return bowl(self.form.q, self.form.qb, self.x) - self._wells(self.u, self.fast["b"][:, None])

    def gap(self) -> Tensor:
        """Leave out the bowl, which is the same in both."""
        empty = torch.addmm(self.form.b0, self.f.flatten(0, 1), self.form.empty).view_as(self.f)
        return self._wells(empty, self.form.b0) - self._wells(self.u, self.fast["b"][:, None])

    def _wells(self, u: Tensor, b: Tensor) -> Tensor:
        return ((u + b).mul_(self.f)).sum(-1).mul_(0.5)


@dataclass(frozen=True, eq=False)
class QuadraticWriteTerms:
    """See `WriteTerms`: the slope is only needed along A, so it never leaves the features."""

    form: QuadraticForm
    f: Tensor
    along: Tensor
    """(qx + qb)A, (pages, patterns, h)"""

    def slopes(self, fast: Tensors, distance: float, initial: Tensors, weight: Tensor, terms: Terms) -> Tensors:
        """See `Quadratic.write_gradient` and `WriteTerms`."""
        c = self._compute_push(fast, weight, terms)
        own = None if terms.energy is None else (terms.energy[:, None] * weight)[..., None] * self.f
        pulled = c if own is None else own.add_(c) if c is not None else own
        if pulled is None:
            return {name: (value - initial[name]).mul_(distance) for name, value in fast.items()}
        left = self.f if c is None else torch.cat([self.f, c], 1)
        right = pulled if c is None else torch.cat([pulled, self.f], 1)
        w = (fast["W"] - initial["W"]).baddbmm_(left.mT, right, beta=distance, alpha=-1)
        return {"W": w, "b": (fast["b"] - initial["b"]).mul_(distance).sub_(pulled.sum(1))}

    def _compute_push(self, fast: Tensors, weight: Tensor, terms: Terms) -> Tensor | None:
        """2αw·gA ⊙ f′ with gA = (qx + qb)A − (u ⊙ f′)AᵀA, like f; None without the term."""
        if terms.slope is None:
            return None
        key_slope = bend(self.f)
        pulled = self.form.pull(fast, self.f).mul_(key_slope)
        along = torch.addmm(self.along.flatten(0, 1), pulled.flatten(0, 1), self.form.gram, alpha=-1).view_as(key_slope)
        return along.mul_(key_slope).mul_((2 * terms.slope[:, None] * weight)[..., None])
