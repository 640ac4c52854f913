"""Product quantisation, as faiss has it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Product:
    """A codec of slots: items cut into `pieces`, each kept as the number of the nearest of 256 training pieces' means.

    The means are shared by all memories and not counted: 256 · d floats, and d² more for a rotation.
    """

    rotation: Tensor
    """(d, d + padding), orthonormal rows: identity, or one that faiss fitted before the cuts"""
    centroids: Tensor
    """(pieces, 256, width)"""

    @classmethod
    def fit(cls, patterns: Tensor, *, budget_bytes: int, rotate: bool = False) -> "Product":  # (n, d), n ≥ 256
        """Fit means and rotation to training patterns, with one piece for each byte of the budget."""
        import faiss  # noqa: PLC0415 - needed by nothing else, and loads a second OpenMP

        d, pieces = patterns.shape[1], min(budget_bytes, patterns.shape[1])
        padded = -(-d // pieces) * pieces
        rotation = _rotation(patterns, pieces, padded) if rotate else torch.eye(d, padded)
        quantiser = faiss.ProductQuantizer(padded, pieces, 8)
        quantiser.cp.min_points_per_centroid = 1  # no warning on stderr: a small training set is the caller's choice
        quantiser.train(_array(patterns @ rotation))
        centroids = faiss.vector_to_array(quantiser.centroids).reshape(pieces, 256, padded // pieces)
        return cls(rotation, torch.from_numpy(centroids.copy()))

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"product quantiser of {len(self.centroids)} bytes"

    def bytes_per_item(self, d: int) -> int:
        """Return one byte for each piece."""
        return len(self.centroids)

    def round_trip(self, items: Tensor) -> Tensor:
        """Return the items (…, d), each piece replaced by the nearest of the means."""
        pieces, _, width = self.centroids.shape
        cut = (items @ self.rotation).reshape(-1, pieces, width).transpose(0, 1)  # (pieces, items, width)
        codes = torch.cdist(cut, self.centroids).argmin(-1, keepdim=True)
        kept = self.centroids.gather(1, codes.expand(-1, -1, width)).transpose(0, 1)
        return kept.reshape(*items.shape[:-1], pieces * width) @ self.rotation.T


def _rotation(patterns: Tensor, pieces: int, padded: int) -> Tensor:
    import faiss  # noqa: PLC0415

    d = patterns.shape[1]
    transform = faiss.OPQMatrix(d, pieces, padded)
    quantiser = faiss.ProductQuantizer(padded, pieces, 8)
    quantiser.cp.min_points_per_centroid = 1
    transform.pq = quantiser
    transform.niter = 10
    transform.train(_array(patterns))
    matrix = faiss.vector_to_array(transform.A).reshape(padded, d)
    return torch.from_numpy(matrix.copy()).T


def _array(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(x.numpy(), dtype=np.float32)
