"""The bilinear network: few bounded keys tell patterns apart, many linear values say what they are.

The quadratic network's fast matrix is symmetric in effect, so half of it is spent twice, and it pulls along its
features only. Here each fast weight counts once, and the pull reaches every direction that the values span.

Behind a whitening a trained V hardly differs from a choice of the leading entries, each at a scale of its own (in a
model of embeddings the rest of it holds 1 % of its square). Where that is all that V may be, it is `entrywise`, and a
reading step takes a third of the operations.

Keys saturate, but for the last `waves` of them, which are sines. A saturating key is alike for all patterns that lie on
one side of it, and stays so where much of a cue is wrong; a sine also tells patterns apart that are nearly alike, as
patches of photographs are. Random sines are the features of a Gaussian kernel (Rahimi and Recht 2007), which is where
training starts from.

`bounded`, values are as long as √(values/c) at most. ΔE of a stored pattern goes with the square of its values: where
these are not bounded, patterns of little contrast are hard to tell from unseen ones of much.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from attractor_server.energy.networks.protocol import Shapes, Start, Tensors, Terms

LOG_BOUND = 1.4
"""Where log c starts: values of a usual length are shortened to about the half"""
WAVE = 3.0
"""Radians, the deviation of a random wave's phase between patterns: two of them are mostly far apart in it"""


@dataclass(frozen=True, kw_only=True)
class Bilinear:
    """E = ½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + a0). Fast: W, b. Slow: A, a0, V, log q, qb.

    Entrywise, V is a vector: vᵢ = Vᵢxᵢ for the leading entries. Of k, the last `waves` are sin(xA + a0).
    Bounded, v = u / √(1 + c·mean u²) with u = xV. Slow: log c.
    """

    inputs: int
    """d, entries of a pattern"""
    keys: int
    """entries of k"""
    values: int
    """entries of v"""
    entrywise: bool = False
    waves: int = 0
    """entries of k that are sines"""
    bounded: bool = False

    def __post_init__(self) -> None:
        if self.waves > self.keys:
            raise ValueError(f"waves: saw {self.waves}; expected at most {self.keys}, one for each key")
        if self.entrywise and self.values > self.inputs:
            raise ValueError(f"values: saw {self.values}; expected at most {self.inputs}, one for each entry")

    @property
    def kind(self) -> str:
        """Its name among the networks."""
        return "bilinear"

    @property
    def config(self) -> Mapping[str, int]:
        """Settings that make it again."""
        sizes = {"inputs": self.inputs, "keys": self.keys, "values": self.values}
        choices = {"entrywise": self.entrywise, "waves": self.waves, "bounded": self.bounded}
        return {**sizes, **{name: chosen for name, chosen in choices.items() if chosen}}

    @property
    def shapes(self) -> tuple[Shapes, Shapes]:
        """Shapes of the slow tensors, and of the fast tensors of one memory."""
        d, k, v = self.inputs, self.keys, self.values
        slow = {"A": (d, k), "a0": (k,), "V": (v,) if self.entrywise else (d, v), "log_q": (d,), "qb": (d,)}
        slow |= {"log_c": (1,)} if self.bounded else {}
        return slow, {"W": (v, k), "b": (v,)}

    def start(self, start: Start) -> Tensors:
        """Start with keys along the leading entries, of deviation 1 before tanh; values are the leading entries.

        Sines begin at random, as waves in the values that users send.
        """
        d, k, v = self.inputs, self.keys, self.values
        saturating = k - self.waves
        a, a0 = torch.eye(d, saturating) / start.deviation[:, None].clamp(min=1e-6), torch.zeros(saturating)
        if self.waves:
            waves = torch.randn(d, self.waves, generator=start.generator) * start.lift.norm(dim=1)[:, None]
            deviation = (waves.square() * start.deviation.square()[:, None]).sum(0).sqrt()
            a = torch.cat([a, waves * (WAVE / deviation.clamp(min=1e-6))], 1)
            a0 = torch.cat([a0, 2 * torch.pi * torch.rand(self.waves, generator=start.generator)])
        zeros = {"log_q": (d,), "qb": (d,), "W": (v, k), "b": (v,)}
        chosen = torch.ones(v) if self.entrywise else torch.eye(d, v)
        bound = {"log_c": torch.full((1,), LOG_BOUND)} if self.bounded else {}
        return {"A": a, "a0": a0, "V": chosen, **bound, **{name: torch.zeros(shape) for name, shape in zeros.items()}}

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """E(x; θ), (memories, patterns), of x (memories, patterns, d)."""
        bowl = (0.5 * slow["log_q"].exp() * x.square() + slow["qb"] * x).sum(-1)
        k, _ = self.keys_of(slow, x)
        return bowl - (_recall(fast, k) * values_at(slow, x).v).sum(-1)

    def keys_of(self, slow: Tensors, x: Tensor) -> tuple[Tensor, Tensor]:
        """k and k′, (…, keys), of x (…, d)."""
        z = x @ slow["A"] + slow["a0"]
        if not self.waves:
            k = z.tanh()
            return k, 1 - k.square()
        k, wave = z[..., : -self.waves].tanh(), z[..., -self.waves :]
        return torch.cat([k, wave.sin()], -1), torch.cat([1 - k.square(), wave.cos()], -1)

    def input_gradient(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """∇ₓE = qx + qb − (Wk + b)JVᵀ − (vW ⊙ k′)Aᵀ with J = ∂v/∂u, like x."""
        k, key_slope = self.keys_of(slow, x)
        return self._slope(slow, fast, x, k, key_slope, values_at(slow, x))

    def write_gradient(self, slow: Tensors, fast: Tensors, x: Tensor, weight: Tensor, terms: Terms) -> Tensors:
        """∇ of Σᵢ wᵢ(εEᵢ + α‖gᵢ‖²): −(w⊙εv + c)ᵀk − vᵀe by W and −Σ(w⊙εv + c) by b, c = 2αw·gVJ, e = 2αw·gA ⊙ k′.

        ‖∇_θE‖² does not depend on the fast weights, so that term has no effect.
        """
        (k, key_slope), values = self.keys_of(slow, x), values_at(slow, x)  # (memories, patterns, ·)
        v = values.v
        pulled, pushed = torch.zeros_like(v), torch.zeros_like(k)
        if terms.energy is not None:
            pulled = (terms.energy[:, None] * weight)[..., None] * v
        if terms.slope is not None:
            slope = self._slope(slow, fast, x, k, key_slope, values)
            strength = (2 * terms.slope[:, None] * weight)[..., None]
            pulled = torch.addcmul(pulled, strength, values.turn(values_of(slow["V"], slope)))
            pushed = strength * (slope @ slow["A"]) * key_slope
        # One product of twice the rank touches the (memories, values, keys) result once.
        w = torch.bmm(torch.cat([pulled, v], 1).mT.neg(), torch.cat([k, pushed], 1))
        return {"W": w, "b": -pulled.sum(1)}

    def _slope(  # noqa: PLR0913
        self, slow: Tensors, fast: Tensors, x: Tensor, k: Tensor, key_slope: Tensor, values: "Values"
    ) -> Tensor:
        pushed = torch.bmm(values.v, fast["W"]) * key_slope
        bowl = torch.addcmul(slow["qb"], slow["log_q"].exp(), x)
        return bowl - entries_of(slow["V"], values.turn(_recall(fast, k)), self.inputs) - pushed @ slow["A"].T


@dataclass(frozen=True)
class Values:
    """v of patterns, (…, values)."""

    v: Tensor
    length: Tensor | None = None
    """√(1 + c·mean u²), (…, 1); None where values are not bounded"""
    bound: Tensor | None = None
    """c"""

    def turn(self, pull: Tensor) -> Tensor:
        """Turn a pull along v into one along u = xV, both like v: times J = ∂v/∂u = (1 − c/values·vᵀv) / length."""
        if self.length is None or self.bound is None:
            return pull
        along = self.bound * (self.v * pull).mean(-1, keepdim=True)
        return (pull - self.v * along) / self.length


def values_at(slow: Tensors, x: Tensor) -> Values:
    """Return the values of x (…, d)."""
    return bound_values(values_of(slow["V"], x), slow["log_c"].exp() if "log_c" in slow else None)


def bound_values(u: Tensor, bound: Tensor | None) -> Values:
    """Bound u = xV (…, values) by c."""
    if bound is None:
        return Values(u)
    length = (1 + bound * u.square().mean(-1, keepdim=True)).sqrt()
    return Values(u / length, length, bound)


def values_of(v: Tensor, x: Tensor) -> Tensor:
    """xV, (…, values), of x (…, d)."""
    return x @ v if v.dim() == 2 else x[..., : len(v)] * v


def entries_of(v: Tensor, values: Tensor, inputs: int) -> Tensor:
    """values·Vᵀ, (…, d), of values (…, values)."""
    return values @ v.T if v.dim() == 2 else pad(values * v, (0, inputs - len(v)))


def _recall(fast: Tensors, k: Tensor) -> Tensor:
    """Wk + b, (memories, patterns, values)."""
    return torch.baddbmm(fast["b"][:, None], k, fast["W"].mT)
