"""Drifts: by how far, and in which direction, other wordings of a text are from its vector.

A drift is a tangent vector of the sphere: its length is the angle between two vectors. Drifts of some pairs, turned
about other patterns, make cues that are like those of people who ask in other words.
"""

import torch
from torch import Tensor

_LEAST = 1e-6
"""Cosines nearer to ±1, and lengths below this, count as none"""


def measure_drifts(patterns: Tensor, others: Tensor) -> Tensor:
    """Return the drifts (n, d) from patterns (n, d) to their other wordings."""
    start, end = _normalise(patterns), _normalise(others)
    cosine = (start * end).sum(-1, keepdim=True).clamp(_LEAST - 1, 1 - _LEAST)
    across = end - cosine * start
    return cosine.arccos() * _normalise(across)


def apply_drifts(patterns: Tensor, drifts: Tensor) -> Tensor:
    """Turn patterns (…, d) by the angles of drifts (…, d), each in the direction that is across its pattern."""
    units, angles = _normalise(patterns), drifts.norm(dim=-1, keepdim=True)
    across = _normalise(drifts - (drifts * units).sum(-1, keepdim=True) * units)
    lengths = patterns.norm(dim=-1, keepdim=True)
    turned: Tensor = lengths * (angles.cos() * units + angles.sin() * across)
    return turned


def draw_drifts(drifts: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw drifts (*shape, d) from those of a source (n, d)."""
    return drifts[torch.randint(len(drifts), shape, generator=generator, device=generator.device)]


def _normalise(x: Tensor) -> Tensor:
    normalised: Tensor = x / x.norm(dim=-1, keepdim=True).clamp(min=_LEAST)
    return normalised
