"""Both products of the bilinear network with a page's weights, Wk + b and vW, in Triton and in one pass over W.

That pass is what a query costs on a GPU: W is the page, and a page is asked for one query or a few.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS_LIMIT = 2
"""Patterns of a page at most: for more of them a matrix product has enough to do with what it reads"""

TILE = 4096
"""Products in flight at most: of a part of W with each of the patterns"""


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    w_ptr, b_ptr, k_ptr, v_ptr, recalled_ptr, pushed_ptr, n, values, keys,
    ROWS: tl.constexpr, VALUES: tl.constexpr, KEYS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    page = tl.program_id(0).to(tl.int64)
    row, key = tl.arange(0, ROWS), tl.arange(0, KEYS)
    ours, real = row < n, key < keys
    line = page * n + row
    k = tl.load(k_ptr + line[:, None] * keys + key[None, :], mask=ours[:, None] & real[None, :], other=0.0)
    pushed = tl.zeros((ROWS, VALUES, KEYS), tl.float32)
    for start in range(0, values, VALUES):
        value = start + tl.arange(0, VALUES)
        there = value < values
        square = value[:, None] * keys + key[None, :]
        w = tl.load(w_ptr + page * values * keys + square, mask=there[:, None] & real[None, :], other=0.0)
        b = tl.load(b_ptr + page * values + value, mask=there, other=0.0)
        place, inside = line[:, None] * values + value[None, :], ours[:, None] & there[None, :]
        v = tl.load(v_ptr + place, mask=inside, other=0.0)
        tl.store(recalled_ptr + place, tl.sum(w[None, :, :] * k[:, None, :], 2) + b[None, :], mask=inside)
        pushed += w[None, :, :] * v[:, :, None]
    out = line[:, None] * keys + key[None, :]
    tl.store(pushed_ptr + out, tl.sum(pushed, 1), mask=ours[:, None] & real[None, :])


def takes(k: Tensor) -> bool:
    """Return whether it fits keys like these (pages, patterns, keys): float32, and few patterns a page."""
    return k.dtype == torch.float32 and k.numel() > 0 and k.shape[1] <= ROWS_LIMIT


def pulls(w: Tensor, b: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Compute Wk + b (pages, patterns, values) and vW (pages, patterns, keys).

    Of W (pages, values, keys), b (pages, values), k (pages, patterns, keys) and v (pages, patterns, values).
    """
    w, b, k, v = (tensor.contiguous() for tensor in (w, b, k, v))
    pages, n, keys = k.shape
    recalled, pushed = torch.empty_like(v), torch.empty_like(k)
    rows, wide = triton.next_power_of_2(n), triton.next_power_of_2(keys)
    at_once = max(1, min(triton.next_power_of_2(v.shape[2]), TILE // (rows * wide)))
    _kernel[(pages,)](w, b, k, v, recalled, pushed, n, v.shape[2], keys, ROWS=rows, VALUES=at_once, KEYS=wide)
    return recalled, pushed
