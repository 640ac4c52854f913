"""Input transforms: between encoded values and the entries that a network has."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from attractor_server.energy.frame import Framing, fill_gaps

Hold: TypeAlias = Callable[[Tensor], Tensor]
"""Puts what is known back into any x (…, entries)"""
Pull: TypeAlias = Callable[[Tensor], Tensor]
"""The gradient by x (…, entries) of half the squared distance from what is known"""


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """Coordinates along principal components, each divided by its spread.

    A gradient step in these is a step by the inverse of the data's covariance in the values themselves: no direction
    waits for another, and none overshoots.
    """

    components: Tensor
    """(values, entries), orthonormal columns"""
    spread: Tensor
    """(entries,)"""

    @cached_property
    def forth(self) -> Tensor:
        """(values, entries): to network units."""
        return self.components / self.spread

    @cached_property
    def back(self) -> Tensor:
        """(entries, values): from network units."""
        return self.spread[:, None] * self.components.T


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Value by value v·scale + shift, both (values,); then, where there is one, the whitening.

    A missing value (NaN) becomes 0 before the whitening, which is the mean of the training data where the shift
    centres them.
    """

    scale: Tensor
    shift: Tensor
    whitening: Whitening | None = None

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Transform":
        """Make the transform whose `tensors` these are.

        Raises:
            KeyError: one of them is missing.
        """
        whitening = None
        if "components" in tensors or "spread" in tensors:
            whitening = Whitening(components=tensors["components"], spread=tensors["spread"])
        return cls(scale=tensors["scale"], shift=tensors["shift"], whitening=whitening)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All that it is made of."""
        own = {"scale": self.scale, "shift": self.shift}
        if self.whitening is None:
            return own
        return {**own, "components": self.whitening.components, "spread": self.whitening.spread}

    @cached_property
    def decoder(self) -> tuple[Tensor, Tensor]:
        """Factor of network units for encoded values, and the offset that is added then."""
        assert self.whitening is not None
        return self.whitening.back / self.scale, -self.shift / self.scale

    def encode(self, values: Tensor, frames: Framing | None = None) -> Tensor:
        """Turn encoded values (…, values) into network units (…, entries)."""
        return self.whiten(self.shift_values(values), frames)

    def shift_values(self, values: Tensor) -> Tensor:
        """Turn encoded values (…, values) into those that `whiten` takes: what is missing stays so."""
        return torch.addcmul(self.shift, values, self.scale)

    def whiten(self, u: Tensor, frames: Framing | None = None) -> Tensor:
        """Turn the values of `shift_values` into network units (…, entries); with frames (pages, patterns, values)."""
        filled = fill_gaps(u) if frames is None else frames.encode(u)
        return filled if self.whitening is None else filled @ self.whitening.forth

    def decode(self, x: Tensor, frames: Framing | None = None) -> Tensor:
        """Turn network units (…, entries) into encoded values (…, values); with frames (pages, patterns, entries)."""
        if frames is not None:
            return (frames.decode(self._unwhiten(x)) - self.shift) / self.scale
        if self.whitening is None:
            return (x - self.shift) / self.scale
        back, centre = self.decoder
        return torch.addmm(centre, x.reshape(-1, x.shape[-1]), back).view(*x.shape[:-1], len(centre))

    def hold(self, values: Tensor, known: Tensor, frames: Framing | None = None) -> "Held":
        """Clamp hard: return what puts known values back into any x; both (…, values), `known` bool."""
        return Held(self, values, known, frames)

    def pull(self, values: Tensor, known: Tensor, frames: Framing | None = None) -> Pull:
        """Clamp softly: return the gradient of ½‖known ⊙ (v − values)‖², v and values after scale and shift."""
        target = fill_gaps(self.shift_values(values))

        def gradient(x: Tensor) -> Tensor:
            u = self._unwhiten(x)
            gap = ((u if frames is None else frames.decode(u)) - target) * known
            slope = gap if frames is None else frames.pull_back(gap)
            return slope if self.whitening is None else slope @ self.whitening.back.T

        return gradient

    def _unwhiten(self, x: Tensor) -> Tensor:
        return x if self.whitening is None else x @ self.whitening.back


@dataclass(frozen=True, eq=False)
class Held:
    """Hard clamping: puts what is known back into any x, see `Transform.hold`."""

    transform: Transform
    values: Tensor
    """Encoded, (…, values)"""
    known: Tensor
    frames: Framing | None = None
    """Of the pages that are read"""

    def __call__(self, x: Tensor) -> Tensor:
        """Put the known values back into x (…, entries)."""
        if self.transform.whitening is None and self.frames is None:
            return torch.where(self.known, self._entries, x)
        values = torch.where(self.known, self.values, self.transform.decode(x, self.frames))
        return self.transform.encode(values, self.frames)

    @cached_property
    def targets(self) -> Tensor:
        """The known values, or entries where there is no whitening, and NaN elsewhere, (…, values).

        With frames they are the values after scale and shift.
        """
        if self.frames is not None:
            return torch.where(self.known, self._framed, math.nan)
        if self.transform.whitening is None:
            return torch.where(self.known, self._entries, math.nan)
        _, centre = self.transform.decoder
        return torch.where(self.known, torch.where(self.values.isnan(), centre, self.values), math.nan)

    @property
    def _framed(self) -> Tensor:
        assert self.frames is not None
        u = self.transform.shift_values(self.values)
        return torch.where(u.isnan(), self.frames.decode(self.frames.encode(u)), u)

    @cached_property
    def _entries(self) -> Tensor:
        return self.transform.encode(self.values)
