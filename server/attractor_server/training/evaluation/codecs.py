"""Principal component codes and product quantisers of any budget, fitted to the same training patterns."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.training.baselines.product import Product
from attractor_server.training.baselines.slots import CLIPS, Codec, Pca
from attractor_server.training.datasets import Source

PATTERNS = 4096
"""Training patterns that the components come from"""

MEANS_OF_LEAST, MEANS_OF_FLOATS = 1024, 1 << 21
"""Training patterns that the quantiser's means come from: so many floats of them, since it takes its time"""

BITS = (8, 6, 4, 3, 2)


@dataclass(frozen=True, kw_only=True)
class Components:
    """The principal components of training patterns, found once, and these patterns in them."""

    mean: Tensor
    """(d,)"""
    basis: Tensor
    """(k, d), orthonormal rows, the leading one first"""
    codes: Tensor
    """(n, k)"""

    @classmethod
    def of(cls, patterns: Tensor) -> "Components":  # (n, d)
        """Compute all components of the patterns."""
        mean = patterns.mean(0)
        basis = torch.linalg.svd(patterns - mean, full_matrices=False)[2]
        return cls(mean=mean, basis=basis, codes=(patterns - mean) @ basis.T)

    def code(self, budget_bytes: int) -> Pca:
        """Return the code within that budget whose bits, components and clipping lose least."""
        return min((self._fit(budget_bytes, bits) for bits in BITS), key=lambda found: found[0])[1]

    def _fit(self, budget_bytes: int, bits: int) -> tuple[float, Pca]:
        """Return the squared error, by quantising and by components left out, and the best code of so many bits."""
        k = max(1, min(8 * budget_bytes // bits, len(self.basis)))
        kept, left_out = self.codes[:, :k], float(self.codes[:, k:].square().sum())
        deviation = kept.square().mean(0).sqrt().clamp_min(torch.finfo(kept.dtype).eps)

        def error(clip: float) -> float:
            largest = clip * deviation
            step = largest / (2 ** (bits - 1) - 1)
            return float(((kept.clamp(-largest, largest) / step).round() * step - kept).square().sum())

        clip = min(CLIPS, key=error)
        return error(clip) + left_out, Pca(self.mean, self.basis[:k], clip * deviation, bits)


def codecs_within(source: Source, components: Components, budget_bytes: int) -> Iterator[Codec]:
    """Yield codecs for one pattern each.

    The quantiser comes only with two values or more in a piece: beyond that, components of 8 bits lose next to
    nothing.
    """
    yield components.code(budget_bytes)
    d = source.layout.size
    if 2 * budget_bytes <= d:
        yield Product.fit(source.pool(max(MEANS_OF_LEAST, MEANS_OF_FLOATS // d)), budget_bytes=budget_bytes)
