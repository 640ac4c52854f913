"""The bilinear network's closed form, E = ½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + a0).

Both pulls go back through one product with [V A]ᵀ.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors, Terms
from attractor_server.energy.parameters import Parameters
from attractor_server.engine.programs.arithmetic import bend, bowl, squashed


@dataclass(frozen=True, kw_only=True, eq=False)
class BilinearForm:
    """A model's tensors in the forms that its loops use."""

    basis: Tensor
    """[V A], (d, values + keys)"""
    a0: Tensor
    values: int
    q: Tensor
    qb: Tensor
    w0: Tensor
    b0: Tensor
    gram: Tensor
    """basisᵀ·basis"""

    @classmethod
    def of(cls, parameters: Parameters) -> "BilinearForm":
        """Prepares what all pages share."""
        slow, b0 = parameters.slow, parameters.initial["b"]
        basis = torch.cat([slow["V"], slow["A"]], 1)
        return cls(
            basis=basis,
            a0=slow["a0"],
            values=len(b0),
            q=slow["log_q"].exp(),
            qb=slow["qb"],
            w0=parameters.initial["W"],
            b0=b0,
            gram=basis.mT @ basis,
        )

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v and k, (pages, patterns, ·)."""
        rows = x.flatten(0, 1)
        k = squashed(torch.addmm(self.a0, rows, self.basis[:, self.values :], beta=2, alpha=2))
        return (rows @ self.basis[:, : self.values]).view(*x.shape[:2], -1), k.view(*x.shape[:2], -1)

    def look(self, fast: Tensors, x: Tensor) -> "BilinearLook":
        """See `Form`."""
        v, k = self.features(x)
        return BilinearLook(self, fast, x, v, k, torch.baddbmm(fast["b"][:, None], k, fast["W"].mT))

    def ground(self, x: Tensor) -> "BilinearGround":
        """See `Form`."""
        v, k = self.features(x)
        along = torch.addcmul(self.qb, self.q, x.flatten(0, 1)) @ self.basis
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
        gradient.flatten(0, 1).addmm_(pulls, self.form.basis.mT, alpha=-1)
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
        return torch.addmm(self.along, pulls, self.form.gram, alpha=-1).view(*self.k.shape[:2], -1)
