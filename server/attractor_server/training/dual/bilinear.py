"""The writing loop of the bilinear network in its dual form.

Every gradient of W is PᵀK + VᵀE with the keys K (n, k) and values V (n, v) of the patterns written, so W − W₀ stays
QᵀK + VᵀE, and the loop has to carry Q (n, v) and E (n, k).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from attractor_server.energy.networks.bilinear import Bilinear, Values, values_at, values_of
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import COUNT_UNIT, Parameters

SETTINGS = frozenset({"inputs", "keys", "values", "entrywise", "waves", "bounded"})


@dataclass(frozen=True)
class _Patterns:
    """Values that the loop needs of patterns: (memories, patterns, k) or (memories, patterns, v)."""

    keys: Tensor
    values: Tensor
    slopes: Tensor
    """k′"""
    lengths: Tensor | None
    """See `Values.length`"""
    drift_keys: Tensor
    """(qx + qb)A"""
    drift_values: Tensor
    """(qx + qb)V"""
    recalled: Tensor
    """W₀k + b₀"""
    pushed: Tensor
    """vW₀"""

    def part(self, start: int, stop: int) -> "_Patterns":
        """Return the patterns from `start` to `stop`."""
        parts: dict[str, Any] = {one.name: _rows(getattr(self, one.name), start, stop) for one in fields(self)}
        return _Patterns(**parts)


@dataclass(frozen=True)
class _State:
    """State of the loop: W − W₀ = QᵀK + VᵀE and values that follow from it; the first dimension is that of memories."""

    by_key: Tensor
    """Q, of the patterns written so far"""
    by_value: Tensor
    """E, of the patterns written so far"""
    square: Tensor
    """‖W − W₀‖², (memories,)"""
    shift: Tensor
    """b − b₀, (memories, v)"""


@dataclass(frozen=True)
class _Grams:
    """Products of the slow matrices."""

    keys: Tensor
    """AᵀA"""
    values: Tensor
    """VᵀV, or its diagonal where it has no more"""
    mixed: Tensor
    """VᵀA"""

    @classmethod
    def of(cls, a: Tensor, v: Tensor) -> "_Grams":
        """Compute the products of A and V."""
        if v.dim() == 1:
            return cls(a.T @ a, v.square(), v[:, None] * a[: len(v)])
        return cls(a.T @ a, v.T @ v, v.T @ a)

    def between_values(self, pulled: Tensor) -> Tensor:
        """Return pulled·VᵀV."""
        return pulled * self.values if self.values.dim() == 1 else pulled @ self.values


def _rows(tensor: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if tensor is None else tensor[:, start:stop]


def write(
    network: Bilinear, parameters: Parameters, patterns: Tensor, chunks: Sequence[int]
) -> tuple[Bilinear, Tensors]:
    """Write as `write_dual` does; return the network too."""
    return network, write_dual(network, parameters, patterns, chunks)


def write_dual(network: Bilinear, parameters: Parameters, patterns: Tensor, chunks: Sequence[int]) -> Tensors:
    """Return the fast weights after writing patterns (memories, n, d) in chunks of these sizes, from θ₀ on."""
    prepared, initial, slow = _prepare(network, parameters, patterns), parameters.initial, parameters.slow
    memories, _, keys = prepared.keys.shape
    values = prepared.values.shape[2]
    none = patterns.new_zeros(memories, 0, 1)
    state = _State(
        none.expand(-1, -1, values), none.expand(-1, -1, keys), none.sum((1, 2)), none.sum(1).expand(-1, values)
    )
    grams = _Grams.of(slow["A"], slow["V"])
    done = 0
    for size in chunks:
        state = _write_chunk(parameters, prepared, state, grams, done, done + size)
        done += size
    left = torch.cat([state.by_key, prepared.values[:, :done]], 1)
    right = torch.cat([prepared.keys[:, :done], state.by_value], 1)
    return {"W": initial["W"] + left.mT @ right, "b": initial["b"] + state.shift}


def _prepare(network: Bilinear, parameters: Parameters, patterns: Tensor) -> _Patterns:
    slow, initial = parameters.slow, parameters.initial
    (keys, bent), found = network.keys_of(slow, patterns), values_at(slow, patterns)
    values = found.v
    bowl = slow["log_q"].exp() * patterns + slow["qb"]
    recalled, pushed = keys @ initial["W"].T + initial["b"], values @ initial["W"]
    along = bowl @ slow["A"], values_of(slow["V"], bowl)
    return _Patterns(keys, values, bent, found.length, *along, recalled, pushed)


def _write_chunk(  # noqa: PLR0913
    parameters: Parameters, prepared: _Patterns, state: _State, grams: _Grams, start: int, stop: int
) -> _State:
    """Take T steps on the patterns from `start` to `stop`; all that was written before shrinks by one factor."""
    writer, new, old = parameters.writer, prepared.part(start, stop), prepared.part(0, start)
    slow, count = parameters.slow, stop - start
    seen = Values(new.values, new.lengths, slow["log_c"].exp() if "log_c" in slow else None)
    now, before = math.log(count / COUNT_UNIT), math.log1p(start / COUNT_UNIT)
    conditioning = writer["rate_count"] * now + writer["rate_stored"] * before
    alphas = (2 / count) * (writer["log_alpha"] + writer["alpha_count"] * now).exp()
    betas, energies = 2 * writer["log_beta"].exp(), writer["log_energy"].exp() / count
    rates = {name: (writer[f"log_rate.{name}"] + conditioning).exp() for name in ("W", "b")}
    limit = writer["log_clip"].exp().square()
    by_key, by_value = torch.zeros_like(new.values), torch.zeros_like(new.keys)
    felt_values, felt_keys = _felt(new, old, state.by_key, state.by_value)
    kept, square, shift = torch.ones_like(state.square), state.square, state.shift
    for t in range(parameters.writing_steps):
        recalled = seen.turn(new.recalled + felt_values + shift[:, None])
        pushed = (new.pushed + felt_keys) * new.slopes
        drift = new.drift_values - grams.between_values(recalled) - pushed @ grams.mixed.T
        p = energies[t] * new.values + alphas[t] * seen.turn(drift)
        e = alphas[t] * (new.drift_keys - recalled @ grams.mixed - pushed @ grams.keys) * new.slopes
        moved_values, moved_keys = _felt(new, new, p, e)
        own = (p * moved_values).sum((1, 2)) + (e * moved_keys).sum((1, 2))  # ‖PᵀK + VᵀE‖²
        inner = (p * felt_values).sum((1, 2)) + (e * felt_keys).sum((1, 2))  # its product with W − W₀
        norm = own - 2 * betas[t] * inner + betas[t].square() * square
        step = rates["W"][t] * (1 + norm / limit).rsqrt()
        keep = 1 - betas[t] * step
        along, across = keep[:, None, None], step[:, None, None]
        by_key, by_value = along * by_key + across * p, along * by_value + across * e
        felt_values, felt_keys = along * felt_values + across * moved_values, along * felt_keys + across * moved_keys
        square = keep.square() * square + 2 * keep * step * inner + step.square() * own
        kept = kept * keep
        slope = betas[t] * shift - p.sum(1)
        shift = shift - (rates["b"][t] * (1 + slope.square().sum(1) / limit).rsqrt())[:, None] * slope
    shrunk = kept[:, None, None]
    return _State(
        torch.cat([shrunk * state.by_key, by_key], 1),
        torch.cat([shrunk * state.by_value, by_value], 1),
        square,
        shift,
    )


def _felt(new: _Patterns, old: _Patterns, by_key: Tensor, by_value: Tensor) -> tuple[Tensor, Tensor]:
    """Return kMᵀ and vM of the new patterns with M = QᵀK + VᵀE over the old, (memories, patterns, v) and (…, k)."""
    values = (new.keys @ old.keys.mT) @ by_key + (new.keys @ by_value.mT) @ old.values
    keys = (new.values @ by_key.mT) @ old.keys + (new.values @ old.values.mT) @ by_value
    return values, keys
