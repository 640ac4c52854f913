"""The bilinear network's closed form, E = ½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + a0), of some sin.

Where V is a matrix, both pulls go back through one product with [V A]ᵀ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from attractor_server.energy.networks.bilinear import Bilinear, Values, bound_values, values_of
from attractor_server.energy.networks.protocol import Tensors, Terms
from attractor_server.energy.parameters import Parameters
from attractor_server.engine.compute.closed_form import WritingKernel, bend, bowl, squash
from attractor_server.engine.compute.native_model import PANEL, NativeModel, panels

Pulls: TypeAlias = tuple[Tensor, Tensor]

OnePass: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Pulls]


class Basis(Protocol):
    """Products with V and A; of pulls, the first are along the values and the second along the keys."""

    def along(self, rows: Tensor) -> Pulls:
        """Compute rows·V and rows·A, of rows (n, d)."""

    def back(self, rows: Tensor, pulls: Pulls) -> None:
        """Subtract the pulls, times Vᵀ and Aᵀ, from the rows (n, d)."""

    def felt(self, along: Pulls, pulls: Pulls) -> Pulls:
        """Return `along` after such rows are taken from those it is of; the caller's own."""


class MixedBasis:
    """V is a matrix."""

    def __init__(self, v: Tensor, a: Tensor) -> None:
        self._both, self._values = torch.cat([v, a], 1), v.shape[1]
        self._gram = self._both.mT @ self._both

    def along(self, rows: Tensor) -> Pulls:
        """See `Basis`."""
        return self._split(rows @ self._both)

    def back(self, rows: Tensor, pulls: Pulls) -> None:
        """See `Basis`."""
        rows.addmm_(torch.cat(pulls, 1), self._both.mT, alpha=-1)

    def felt(self, along: Pulls, pulls: Pulls) -> Pulls:
        """See `Basis`."""
        return self._split(torch.addmm(torch.cat(along, 1), torch.cat(pulls, 1), self._gram, alpha=-1))

    def _split(self, both: Tensor) -> Pulls:
        return both[:, : self._values], both[:, self._values :]


class EntrywiseBasis:
    """V scales the leading entries."""

    def __init__(self, v: Tensor, a: Tensor) -> None:
        self._v, self._a = v, a
        self._square, self._keys, self._mixed = v.square(), a.mT @ a, v[:, None] * a[: len(v)]

    def along(self, rows: Tensor) -> Pulls:
        """See `Basis`."""
        return values_of(self._v, rows), rows @ self._a

    def back(self, rows: Tensor, pulls: Pulls) -> None:
        """See `Basis`."""
        rows.addmm_(pulls[1], self._a.mT, alpha=-1)
        rows[:, : len(self._v)].addcmul_(pulls[0], self._v, value=-1)

    def felt(self, along: Pulls, pulls: Pulls) -> Pulls:
        """See `Basis`."""
        pulled, pushed = pulls
        of_values = torch.addcmul(along[0], pulled, self._square, value=-1).addmm_(pushed, self._mixed.mT, alpha=-1)
        of_keys = torch.addmm(along[1], pulled, self._mixed, alpha=-1).addmm_(pushed, self._keys, alpha=-1)
        return of_values, of_keys


class Features(NamedTuple):
    """Features of patterns, (pages, patterns, ·) each."""

    values: Values
    k: Tensor
    key_slope: Tensor
    """k′"""

    @property
    def v(self) -> Tensor:
        """The values themselves."""
        return self.values.v


@dataclass(frozen=True, kw_only=True, eq=False)
class BilinearForm:
    """A model's tensors in the forms that its loops use."""

    SETTINGS: ClassVar = frozenset({"inputs", "keys", "values", "entrywise", "waves", "bounded"})

    v: Tensor
    """V, (d, values), or (values,) where it is entrywise"""
    a: Tensor
    a0: Tensor
    q: Tensor
    qb: Tensor
    w0: Tensor
    b0: Tensor
    basis: Basis
    waves: int
    """Of k, the last so many are sines"""
    bound: Tensor | None
    """c, (1,); None where values are not bounded"""

    @classmethod
    def of(cls, network: Bilinear, parameters: Parameters) -> "BilinearForm":
        """Prepare what all pages share."""
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
            waves=network.waves,
            bound=slow["log_c"].exp() if "log_c" in slow else None,
        )

    @property
    def values(self) -> int:
        """Entries of v."""
        return len(self.b0)

    def features(self, x: Tensor) -> Features:
        """Compute the features of x (pages, patterns, d)."""
        rows, shape = x.flatten(0, 1), x.shape[:2]
        values = bound_values(values_of(self.v, rows).view(*shape, -1), self.bound)
        doubled = torch.addmm(self.a0, rows, self.a, beta=2, alpha=2).view(*shape, -1)
        if not self.waves:
            k = squash(doubled)
            return Features(values, k, bend(k))
        k, wave = squash(doubled[..., : -self.waves]), doubled[..., -self.waves :] / 2
        return Features(values, torch.cat([k, wave.sin()], -1), torch.cat([bend(k), wave.cos()], -1))

    def evaluate(self, fast: Tensors, x: Tensor) -> "BilinearEvaluation":
        """See `ClosedForm`."""
        seen = self.features(x)
        if (one_pass := _one_pass(seen.k)) is not None:
            return BilinearEvaluation(self, fast, x, seen, *one_pass(fast["W"], fast["b"], seen.k, seen.v))
        return BilinearEvaluation(self, fast, x, seen, torch.baddbmm(fast["b"][:, None], seen.k, fast["W"].mT))

    def prepare_write(self, x: Tensor) -> "BilinearWriteTerms":
        """See `ClosedForm`."""
        along = self.basis.along(torch.addcmul(self.qb, self.q, x.flatten(0, 1)))
        return BilinearWriteTerms(self, self.features(x), along)

    def native_model(self) -> NativeModel | None:
        """See `ClosedForm`."""
        (d, keys), wide = self.a.shape, -(-self.values // PANEL) * PANEL
        if d % PANEL or keys % PANEL or self.waves % PANEL:
            return None
        room = (0, wide - self.values)
        v, entrywise = pad(self.v, room), self.v.dim() == 1
        tensors = {
            "a": panels(self.a),
            "a_t": panels(self.a.mT),
            "v": v if entrywise else panels(v),
            "v_t": None if entrywise else panels(v.mT),
            "a0": self.a0.contiguous(),
            "b0": pad(self.b0, room),
            "w0_t": panels(pad(self.w0.mT, room)),
            "bound": self.bound,
        }
        return NativeModel(
            name="bilinear",
            sizes={"keys": keys, "values": self.values, "wide": wide, "waves": self.waves},
            tensors=tensors,
            q=self.q.contiguous(),
            qb=self.qb.contiguous(),
            room=4 * d + 3 * keys + 3 * wide + 1,
            in_order=True,
        )

    def make_writing_kernel(self) -> WritingKernel | None:
        """See `ClosedForm`; the kernel knows this form, so it is imported here."""
        from attractor_server.engine.compute.native.kernels import make_host_writing_kernel  # noqa: PLC0415

        return make_host_writing_kernel(self)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _one_pass(k: Tensor) -> OnePass | None:
    """Return a function that gives Wk + b and vW in one pass over W; None where there is none for keys like these.

    Triton is there only with CUDA.
    """
    if not k.is_cuda or not _has_triton():
        return None
    from attractor_server.engine.compute.triton_bilinear import pulls, takes  # noqa: PLC0415

    return pulls if takes(k) else None


@dataclass(frozen=True, eq=False)
class BilinearEvaluation:
    """See `Evaluation`."""

    form: BilinearForm
    fast: Tensors
    x: Tensor
    seen: Features
    recalled: Tensor
    """Wk + b"""
    pushed: Tensor | None = None
    """vW, where one pass over W gives both"""

    def slope(self) -> Tensor:
        """qx + qb − (Wk + b)Vᵀ − (vW ⊙ k′)Aᵀ."""
        gradient = torch.addcmul(self.form.qb, self.form.q, self.x)
        pushed = torch.bmm(self.seen.v, self.fast["W"]) if self.pushed is None else self.pushed
        recalled = self.seen.values.turn(self.recalled)
        pulls = recalled.flatten(0, 1), (pushed * self.seen.key_slope).flatten(0, 1)
        self.form.basis.back(gradient.flatten(0, 1), pulls)
        return gradient

    def energy(self) -> Tensor:
        """Compute the bowl less v·(Wk + b)."""
        return bowl(self.form.q, self.form.qb, self.x) - (self.recalled * self.seen.v).sum(-1)

    def gap(self) -> Tensor:
        """Leave out the bowl, which is the same in both."""
        empty = torch.addmm(self.form.b0, self.seen.k.flatten(0, 1), self.form.w0.mT).view_as(self.seen.v)
        return empty.sub_(self.recalled).mul_(self.seen.v).sum(-1)


@dataclass(frozen=True, eq=False)
class BilinearWriteTerms:
    """See `WriteTerms`: the slope is only needed along V and A, so it never leaves the features."""

    form: BilinearForm
    seen: Features
    along: Pulls
    """(qx + qb)V and (qx + qb)A, (rows, ·)"""

    def slopes(self, fast: Tensors, distance: float, initial: Tensors, weight: Tensor, terms: Terms) -> Tensors:
        """See `Bilinear.write_gradient` and `WriteTerms`."""
        own = None if terms.energy is None else (terms.energy[:, None] * weight)[..., None] * self.seen.v
        if terms.slope is None and own is None:
            return {name: (value - initial[name]).mul_(distance) for name, value in fast.items()}
        if terms.slope is None:
            pulled, left, right = own, own, self.seen.k
        else:
            strength = (2 * terms.slope[:, None] * weight)[..., None]
            along_v, along_k = self._slope(fast)
            along_v = self.seen.values.turn(along_v)
            pulled = along_v * strength if own is None else own.addcmul_(along_v, strength)
            pushed = along_k.mul_(strength).mul_(self.seen.key_slope)
            left, right = torch.cat([pulled, self.seen.v], 1), torch.cat([self.seen.k, pushed], 1)
        assert pulled is not None
        assert left is not None
        w = (fast["W"] - initial["W"]).baddbmm_(left.mT, right, beta=distance, alpha=-1)
        return {"W": w, "b": (fast["b"] - initial["b"]).mul_(distance).sub_(pulled.sum(1))}

    def _slope(self, fast: Tensors) -> Pulls:
        """∇ₓE along V and A, (pages, patterns, ·) each."""
        recalled = torch.baddbmm(fast["b"][:, None], self.seen.k, fast["W"].mT)
        recalled = self.seen.values.turn(recalled)
        pulls = recalled.flatten(0, 1), torch.bmm(self.seen.v, fast["W"]).mul_(self.seen.key_slope).flatten(0, 1)
        along_v, along_k = self.form.basis.felt(self.along, pulls)
        return along_v.view(*self.seen.k.shape[:2], -1), along_k.view(*self.seen.k.shape[:2], -1)
