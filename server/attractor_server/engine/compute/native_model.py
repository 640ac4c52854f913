"""Description of a closed form for the native library's reading loop."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

PANEL = 16
"""Columns that the native loops take at once: lengths come in sixteens, matrices as [column / 16][row][16]"""


@dataclass(frozen=True, kw_only=True, eq=False)
class NativeModel:
    """Sizes and tensors of a closed form, as its structure in `native/kernels.h` has them."""

    name: str
    """The network's: its structure is `{name}_model`, its function `read_{name}`"""
    sizes: Mapping[str, int]
    """Integers of the structure, by field"""
    tensors: Mapping[str, Tensor | None]
    """Tensors that the structure points to, by field"""
    q: Tensor
    qb: Tensor
    room: int
    """Floats that a row of a batch needs"""
    in_order: bool
    """See `InPlaceKernel`"""


def panels(matrix: Tensor) -> Tensor:
    """Lay out a matrix (rows, columns) as [column / 16][row][16]."""
    return matrix.reshape(len(matrix), -1, PANEL).transpose(0, 1).contiguous()
