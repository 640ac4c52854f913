"""The bilinear network's closed form, E = ½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + a0).

Where V is a matrix, both pulls go back through one product with [V A]ᵀ.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attractor_server.energy.networks.bilinear import values_of
from attractor_server.energy.networks.protocol import Tensors, Terms
from attractor_server.energy.parameters import Parameters
from attractor_server.engine.programs.arithmetic import bend, bowl, squashed


class Basis(Protocol):
    """Products with [V A], (d, values + keys)."""

    def along(self, rows: Tensor) -> Tensor:
        """rows·[V A]"""

    def back(self, rows: Tensor, pulls: Tensor) -> None:
        """Takes pulls·[V A]ᵀ from the rows (…, d)."""

    def felt(self, along: Tensor, pulls: Tensor) -> Tensor:
        """along − pulls·[V A]ᵀ[V A]"""


class MixedBasis:
    """V is a matrix."""

    def __init__(self, v: Tensor, a: Tensor) -> None:
        self._both = torch.cat([v, a], 1)
        self._gram = self._both.mT @ self._both

    def along(self, rows: Tensor) -> Tensor:
        """See `Basis`."""
        return rows @ self._both

    def back(self, rows: Tensor, pulls: Tensor) -> None:
        """See `Basis`."""
        rows.addmm_(pulls, self._both.mT, alpha=-1)

    def felt(self, along: Tensor, pulls: Tensor) -> Tensor:
        """See `Basis`."""
        return torch.addmm(along, pulls, self._gram, alpha=-1)


class EntrywiseBasis:
    """V scales the leading entries."""

    def __init__(self, v: Tensor, a: Tensor) -> None:
        self._v, self._a = v, a
        self._keys, self._mixed = a.mT @ a, v[:, None] * a[: len(v)]

    def along(self, rows: Tensor) -> Tensor:
        """See `Basis`."""
        return torch.cat([values_of(self._v, rows), rows @ self._a], 1)

    def back(self, rows: Tensor, pulls: Tensor) -> None:
        """See `Basis`."""
        values = len(self._v)
        rows.addmm_(pulls[:, values:], self._a.mT, alpha=-1)
        rows[:, :values].addcmul_(pulls[:, :values], self._v, value=-1)

    def felt(self, along: Tensor, pulls: Tensor) -> Tensor:
        """See `Basis`."""
        pulled, pushed = pulls[:, : len(self._v)], pulls[:, len(self._v) :]
        of_values = torch.addmm(pulled * self._v.square(), pushed, self._mixed.mT)
        of_keys = torch.addmm(pulled @ self._mixed, pushed, self._keys)
        return along - torch.cat([of_values, of_keys], 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class BilinearForm:
    """A model's tensors in the forms that its loops use."""

    v: Tensor
    """V, (d, values), or (values,) where it is entrywise"""
    a: Tensor
    a0: Tensor
    q: Tensor
    qb: Tensor
    w0: Tensor
    b0: Tensor
    basis: Basis

    @classmethod
    def of(cls, parameters: Parameters) -> "BilinearForm":
        """Prepares what all pages share."""
        slow, initial = parameters.slow, parameters.initial
        v, a = slow["V"], slow["A"]
        return cls(
            v=v,
            a=a,
            a0=slow["a0"],
            q=slow["log_q"].exp(),
            qb=slow["qb"],
            w0=initial["W"],
            b0=initial["b"],
            basis=EntrywiseBasis(v, a) if v.dim() == 1 else MixedBasis(v, a),
        )

    @property
    def values(self) -> int:
        """Entries of v."""
        return len(self.b0)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v and k, (pages, patterns, ·)."""
        rows = x.flatten(0, 1)
        k = squashed(torch.addmm(self.a0, rows, self.a, beta=2, alpha=2))
        return values_of(self.v, rows).view(*x.shape[:2], -1), k.view(*x.shape[:2], -1)

    def look(self, fast: Tensors, x: Tensor) -> "BilinearLook":
        """See `Form`."""
        v, k = self.features(x)
        return BilinearLook(self, fast, x, v, k, torch.baddbmm(fast["b"][:, None], k, fast["W"].mT))

    def ground(self, x: Tensor) -> "BilinearGround":
        """See `Form`."""
        v, k = self.features(x)
        along = self.basis.along(torch.addcmul(self.qb, self.q, x.flatten(0, 1)))
        return BilinearGround(self, v, k, along)

    def pulls(self, fast: Tensors, v: Tensor, k: Tensor, recalled: Tensor) -> Tensor:
        """[Wk + b, vW ⊙ k′], (rows, values + keys)."""
        return torch.cat([recalled, torch.bmm(v, fast["W"]).mul_(bend(k))], -1).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class BilinearLook:
    """See `Look`."""

    form: BilinearForm
    fast: Tensors
    x: Tensor
    v: Tensor
    k: Tensor
    recalled: Tensor
    """Wk + b"""

    def slope(self) -> Tensor:
        """qx + qb − (Wk + b)Vᵀ − (vW ⊙ k′)Aᵀ."""
        gradient = torch.addcmul(self.form.qb, self.form.q, self.x)
        pulls = self.form.pulls(self.fast, self.v, self.k, self.recalled)
        self.form.basis.back(gradient.flatten(0, 1), pulls)
        return gradient

    def energy(self) -> Tensor:
        """The bowl less v·(Wk + b)."""
        return bowl(self.form.q, self.form.qb, self.x) - (self.recalled * self.v).sum(-1)

    def gap(self) -> Tensor:
        """The bowl is the same in both, and is left out."""
        empty = torch.addmm(self.form.b0, self.k.flatten(0, 1), self.form.w0.mT).view_as(self.v)
        return empty.sub_(self.recalled).mul_(self.v).sum(-1)


@dataclass(frozen=True, eq=False)
class BilinearGround:
    """See `Ground`: the slope is only needed along V and A, so it never leaves the features."""

    form: BilinearForm
    v: Tensor
    k: Tensor
    along: Tensor
    """(qx + qb)[V A], (rows, values + keys)"""

    def slopes(self, fast: Tensors, distance: float, initial: Tensors, weight: Tensor, terms: Terms) -> Tensors:
        """See `Bilinear.write_gradient` and `Ground`."""
        own = None if terms.energy is None else (terms.energy[:, None] * weight)[..., None] * self.v
        if terms.slope is None and own is None:
            return {name: (value - initial[name]).mul_(distance) for name, value in fast.items()}
        if terms.slope is None:
            pulled, left, right = own, own, self.k
        else:
            across = self._slope(fast).mul_((2 * terms.slope[:, None] * weight)[..., None])
            pulled = across[..., : self.form.values] if own is None else own.add_(across[..., : self.form.values])
            pushed = across[..., self.form.values :].mul_(bend(self.k))
            left, right = torch.cat([pulled, self.v], 1), torch.cat([self.k, pushed], 1)
        assert pulled is not None
        assert left is not None
        w = (fast["W"] - initial["W"]).baddbmm_(left.mT, right, beta=distance, alpha=-1)
        return {"W": w, "b": (fast["b"] - initial["b"]).mul_(distance).sub_(pulled.sum(1))}

    def _slope(self, fast: Tensors) -> Tensor:
        """∇ₓE along V and A, (pages, patterns, values + keys)."""
        recalled = torch.baddbmm(fast["b"][:, None], self.k, fast["W"].mT)
        pulls = self.form.pulls(fast, self.v, self.k, recalled)
        return self.form.basis.felt(self.along, pulls).view(*self.k.shape[:2], -1)
