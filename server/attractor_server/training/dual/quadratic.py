"""The writing loop of the quadratic network in its dual form: exact, and several times as fast to train through.

Every gradient of W is FᵀQ + QᵀF with the features F (n, h) of the patterns written, so W − W₀ stays FᵀP + PᵀF, and the
loop has to carry P (n, h) instead of W (h, h). `energy.writer.write` is its slow twin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import COUNT_UNIT, Parameters

SETTINGS = frozenset({"inputs", "features"})


@dataclass(frozen=True, kw_only=True)
class Symmetric(Quadratic):
    """The quadratic network for fast weights whose W is symmetric, as all are that the loop yields."""

    def input_gradient(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """Return ∇ₓE, without a pass over W for its transpose."""
        f = torch.tanh(x @ slow["A"] + slow["a0"])
        pull = torch.baddbmm(fast["b"][:, None], f, fast["W"], alpha=2)
        return torch.addcmul(slow["qb"], slow["log_q"].exp(), x) - (pull * (1 - f.square())) @ slow["A"].T


@dataclass(frozen=True)
class _Patterns:
    """Values that the loop needs of patterns: (memories, patterns, h) each, and their Gram matrix."""

    features: Tensor
    slopes: Tensor
    """f′"""
    drift: Tensor
    """(qx + qb)A"""
    pull: Tensor
    """f(W₀ + W₀ᵀ) + b₀"""
    gram: Tensor
    """FFᵀ, (memories, patterns, patterns)"""

    def chunk(self, start: int, stop: int) -> "_Patterns":
        """Return the patterns from `start` to `stop`."""
        return _Patterns(
            self.features[:, start:stop],
            self.slopes[:, start:stop],
            self.drift[:, start:stop],
            self.pull[:, start:stop],
            self.gram[:, start:stop, start:stop],
        )


@dataclass(frozen=True)
class _State:
    """State of the loop: W − W₀ = FᵀP + PᵀF and values that follow from it; the first dimension is that of memories."""

    values: Tensor
    """P, of the patterns written so far"""
    square: Tensor
    """‖W − W₀‖², (memories,)"""
    shift: Tensor
    """b − b₀, (memories, h)"""


def write(
    network: Quadratic, parameters: Parameters, patterns: Tensor, chunks: Sequence[int]
) -> tuple[Symmetric, Tensors]:
    """Write as `write_dual` does; return the network for what is symmetric too."""
    symmetric = Symmetric(inputs=network.inputs, features=network.features)
    return symmetric, write_dual(parameters, patterns, chunks)


def write_dual(parameters: Parameters, patterns: Tensor, chunks: Sequence[int]) -> Tensors:
    """Return the fast weights after writing patterns (memories, n, d) in these chunks, from θ₀ on; W is symmetric."""
    prepared = _prepare(parameters, patterns)
    memories, _, h = prepared.features.shape
    state = _State(patterns.new_zeros(memories, 0, h), patterns.new_zeros(memories), patterns.new_zeros(memories, h))
    gram = parameters.slow["A"].T @ parameters.slow["A"]
    done = 0
    for size in chunks:
        state = _write_chunk(parameters, prepared, state, gram, done, done + size)
        done += size
    half = prepared.features[:, :done].mT @ state.values
    initial = parameters.initial["W"]
    return {"W": half + half.mT + 0.5 * (initial + initial.T), "b": parameters.initial["b"] + state.shift}


def _prepare(parameters: Parameters, patterns: Tensor) -> _Patterns:
    slow, initial = parameters.slow, parameters.initial
    features = torch.tanh(patterns @ slow["A"] + slow["a0"])
    drift = (slow["log_q"].exp() * patterns + slow["qb"]) @ slow["A"]
    pull = features @ (initial["W"] + initial["W"].T) + initial["b"]
    return _Patterns(features, 1 - features.square(), drift, pull, features @ features.mT)


def _write_chunk(  # noqa: PLR0913
    parameters: Parameters, prepared: _Patterns, state: _State, gram: Tensor, start: int, stop: int
) -> _State:
    """Take T steps on the patterns from `start` to `stop`; all that was written before shrinks by one factor."""
    writer, new = parameters.writer, prepared.chunk(start, stop)
    count = stop - start
    now, before = math.log(count / COUNT_UNIT), math.log1p(start / COUNT_UNIT)
    conditioning = writer["rate_count"] * now + writer["rate_stored"] * before
    limit = writer["log_clip"].exp().square()
    old = prepared.features[:, :start]
    felt = prepared.gram[:, start:stop, :start] @ state.values  # F_new(W − W₀), of the new patterns
    felt = felt + (new.features @ state.values.mT) @ old
    values = torch.zeros_like(new.features)
    kept, square, shift = torch.ones_like(state.square), state.square, state.shift
    total = new.features.mean(1)
    energies = writer["log_energy"].exp()
    for t in range(parameters.writing_steps):
        alpha = (writer["log_alpha"][t] + writer["alpha_count"] * now).exp()
        beta = 2 * writer["log_beta"][t].exp()
        pull = new.pull + 2 * felt + shift[:, None]
        c = (2 / count * alpha) * ((new.drift - (pull * new.slopes) @ gram) * new.slopes)
        q = c + (0.5 / count * energies[t]) * new.features  # the gradient of W is β(W − W₀) − FᵀQ − QᵀF
        cross = q @ new.features.mT
        moved = new.gram @ q + cross.mT @ new.features  # F(FᵀQ + QᵀF)
        own = 2 * (q * moved).sum((1, 2))  # ‖FᵀQ + QᵀF‖²
        inner = 2 * (q * felt).sum((1, 2))  # its product with W − W₀
        norm = own - 2 * beta * inner + beta.square() * square
        step = (writer["log_rate.W"][t] + conditioning).exp() * (1 + norm / limit).rsqrt()
        keep = 1 - beta * step
        felt = keep[:, None, None] * felt + step[:, None, None] * moved
        values = keep[:, None, None] * values + step[:, None, None] * q
        square = keep.square() * square + 2 * keep * step * inner + step.square() * own
        kept = kept * keep
        slope = beta * shift - energies[t] * total - c.sum(1)
        step = (writer["log_rate.b"][t] + conditioning).exp() * (1 + slope.square().sum(1) / limit).rsqrt()
        shift = shift - step[:, None] * slope
    return _State(torch.cat([kept[:, None, None] * state.values, values], 1), square, shift)


def delta_energy_dual(parameters: Parameters, fast: Tensors, x: Tensor) -> Tensor:
    """Return ΔE = E(x; θ) − E(x; θ₀), (memories, patterns), for fast weights that `write_dual` made."""
    f = torch.tanh(x @ parameters.slow["A"] + parameters.slow["a0"])
    initial = parameters.initial["W"]
    pull = f @ (fast["W"] - 0.5 * (initial + initial.T)) + (fast["b"] - parameters.initial["b"])[:, None]
    return -(pull * f).sum(-1)
