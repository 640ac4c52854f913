"""Vectors of any length in the form that a model of one length takes."""

from functools import cache

import numpy as np

from attractor import InvalidRequest
from attractor_agents.encoders import Floats


def fit(vectors: Floats, dims: int) -> Floats:
    """Return vectors of length 1 with `dims` entries.

    Shorter ones are filled up with zeros, which changes no cosine; longer ones are projected, which changes them a
    little: with 384 of 1,536 entries by about 0.04.

    Raises:
        InvalidRequest: they are no vectors, or not of finite numbers.
    """
    if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
        seen = f"shape {vectors.shape}" if vectors.ndim != 2 or not vectors.shape[1] else "numbers that are not finite"
        raise InvalidRequest.of("encoder", f"made vectors of {seen}; expected finite ones, (texts, dims)")
    given = vectors.shape[1]
    if given > dims:
        vectors = _normalize(vectors) @ _projection(given, dims)
    return np.pad(_normalize(vectors), ((0, 0), (0, max(0, dims - given))))


def _normalize(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


@cache
def _projection(given: int, dims: int) -> Floats:
    """Return orthonormal columns that depend on the two lengths alone, (given, dims)."""
    drawn = np.random.default_rng(given).standard_normal((given, dims))
    axes, triangle = np.linalg.qr(drawn)
    return np.asarray(axes * np.sign(np.diag(triangle)), np.float32)  # signs as no library chooses them
