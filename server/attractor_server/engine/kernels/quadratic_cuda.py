"""The reading loop of the quadratic network in Triton: a program takes a few patterns of one page through all steps.

The page's W is loaded once and stays on the chip; A, which all pages share, streams through in blocks of entries. What
a program keeps of its patterns (iterate, velocity, slope) lies in global memory, few enough to stay in its cache.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading
from attractor_server.engine.programs.quadratic import QuadraticForm
from attractor_server.engine.programs.schedule import Schedule

FEATURES_LIMIT = 128
"""h at most: W of 128 × 128 takes 64 KiB of a multiprocessor's 228"""
BLOCK = 64
"""Entries of a pattern that are taken at once"""
TILE = 16
"""Patterns of a page in one program at most, and the fewest that a tensor product takes"""


@triton.jit  # type: ignore[untyped-decorator]
def _times(left, right, DOT: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """left (n, k) times right (k, m); few rows by sums, since a tensor product takes 16 or more."""
    if DOT:
        return tl.dot(left, right, input_precision="ieee")
    return tl.sum(left[:, :, None] * right[None, :, :], 1)


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    w_ptr, b_ptr, cue_ptr, x_ptr, velocity_ptr, slope_ptr, before_ptr, after_ptr, gap_ptr,
    a_ptr, a0_ptr, q_ptr, qb_ptr, turn_ptr, empty_ptr, b0_ptr, sizes_ptr, momenta_ptr,
    n, d, h, steps,
    ROWS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, TURNED: tl.constexpr, DOT: tl.constexpr,  # noqa: N803
):  # fmt: skip
    page = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column, entry = tl.arange(0, H), tl.arange(0, D)
    ours, real = row < n, column < h
    square = column[:, None] * h + column[None, :]
    both = real[:, None] & real[None, :]
    w = tl.load(w_ptr + page * h * h + square, mask=both, other=0.0)
    b = tl.load(b_ptr + page * h + column, mask=real, other=0.0)
    a0 = tl.load(a0_ptr + column, mask=real, other=0.0)
    b0 = tl.load(b0_ptr + column, mask=real, other=0.0)
    line = (page * n + row).to(tl.int64) * d
    for step in range(steps + 1):  # the last one only for the energy
        momentum = tl.load(momenta_ptr + step, mask=step < steps, other=0.0)
        z = tl.zeros((ROWS, H), tl.float32)
        bowl = tl.zeros((ROWS,), tl.float32)
        for start in range(0, d, D):
            at = start + entry
            inside = ours[:, None] & (at < d)[None, :]
            place = line[:, None] + at[None, :]
            if step == 0:
                x = tl.load(cue_ptr + place, mask=inside, other=0.0)
            else:
                x = tl.load(x_ptr + place, mask=inside, other=0.0)
                x += momentum * tl.load(velocity_ptr + place, mask=inside, other=0.0)
            q = tl.load(q_ptr + at, mask=at < d, other=0.0)[None, :]
            qb = tl.load(qb_ptr + at, mask=at < d, other=0.0)[None, :]
            bowl += tl.sum(x * (0.5 * q * x + qb), 1)
            share = at[:, None] * h + column[None, :]
            a = tl.load(a_ptr + share, mask=(at < d)[:, None] & real[None, :], other=0.0)
            z += _times(x, a, DOT)
        f = 2 * tl.sigmoid(2 * (z + a0[None, :])) - 1
        u = 2 * _times(f, w, DOT) + b[None, :]
        if TURNED:
            u -= _times(f, tl.load(turn_ptr + square, mask=both, other=0.0), DOT)
        depth = 0.5 * tl.sum(f * (u + b[None, :]), 1)
        place_of_energy = page * n + row
        if step == 0:
            tl.store(before_ptr + place_of_energy, bowl - depth, mask=ours)
            empty = _times(f, tl.load(empty_ptr + square, mask=both, other=0.0), DOT)
            gap = 0.5 * tl.sum(f * (empty + 2 * b0[None, :]), 1) - depth
            tl.store(gap_ptr + place_of_energy, gap, mask=ours)
        if step == steps:
            tl.store(after_ptr + place_of_energy, bowl - depth, mask=ours)
        else:
            p = u * (1 - f * f)
            norm = tl.zeros((ROWS,), tl.float32)
            for start in range(0, d, D):
                at = start + entry
                inside = ours[:, None] & (at < d)[None, :]
                place = line[:, None] + at[None, :]
                if step == 0:
                    x = tl.load(cue_ptr + place, mask=inside, other=0.0)
                else:
                    x = tl.load(x_ptr + place, mask=inside, other=0.0)
                    x += momentum * tl.load(velocity_ptr + place, mask=inside, other=0.0)
                q = tl.load(q_ptr + at, mask=at < d, other=0.0)[None, :]
                qb = tl.load(qb_ptr + at, mask=at < d, other=0.0)[None, :]
                share = at[None, :] * h + column[:, None]
                a = tl.load(a_ptr + share, mask=(at < d)[None, :] & real[:, None], other=0.0)
                slope = q * x + qb - _times(p, a, DOT)
                norm += tl.sum(slope * slope, 1)  # beyond d and n all of it is 0
                tl.store(slope_ptr + place, slope, mask=inside)
            tl.debug_barrier()  # others of this program read what is written here
            scale = tl.load(sizes_ptr + step) / tl.sqrt(1 + norm / d)
            for start in range(0, d, D):
                at = start + entry
                inside = ours[:, None] & (at < d)[None, :]
                place = line[:, None] + at[None, :]
                velocity = -scale[:, None] * tl.load(slope_ptr + place, mask=inside, other=0.0)
                if step == 0:
                    x = tl.load(cue_ptr + place, mask=inside, other=0.0)
                else:
                    x = tl.load(x_ptr + place, mask=inside, other=0.0)
                    velocity += momentum * tl.load(velocity_ptr + place, mask=inside, other=0.0)
                tl.store(velocity_ptr + place, velocity, mask=inside)
                tl.store(x_ptr + place, x + velocity, mask=inside)
            tl.debug_barrier()


@dataclass(frozen=True, eq=False)
class QuadraticOnCUDA:
    """See `Kernel`; float32, up to `FEATURES_LIMIT` features."""

    form: QuadraticForm
    schedule: Schedule

    @classmethod
    def of(cls, form: QuadraticForm, schedule: Schedule) -> "QuadraticOnCUDA | None":
        """None where the model's shape or dtype does not fit."""
        fits = form.a.dtype == torch.float32 and form.a.shape[1] <= FEATURES_LIMIT
        return cls(form, schedule) if fits else None

    def takes(self, x: Tensor) -> bool:
        """Whatever is float32."""
        return x.dtype == torch.float32 and x.numel() > 0

    def read(self, fast: Tensors, x: Tensor, *, steps: int) -> Reading:
        """See `Kernel`."""
        w, b, cue = (tensor.contiguous() for tensor in (fast["W"], fast["b"], x))
        pages, n, d = cue.shape
        pattern, velocity, slope = torch.empty_like(cue), torch.empty_like(cue), torch.empty_like(cue)
        before, after, gap = cue.new_empty(3, pages, n)
        form, rows = self.form, min(TILE, triton.next_power_of_2(n))
        shared = (form.a, form.a0, form.q, form.qb, form.empty if form.turn is None else form.turn, form.empty, form.b0)
        numbers = [self.schedule.at(step) for step in range(steps)]
        learned = [
            cue.new_tensor(values) for values in zip(*((size, momentum) for size, momentum, _ in numbers), strict=True)
        ]
        _kernel[pages, triton.cdiv(n, rows)](
            *(w, b, cue, pattern, velocity, slope, before, after, gap),
            *(tensor.contiguous() for tensor in shared),
            *learned,
            *(n, d, b.shape[1], steps),
            ROWS=rows,
            H=max(16, triton.next_power_of_2(b.shape[1])),
            D=BLOCK,
            TURNED=form.turn is not None,
            DOT=rows >= TILE,
        )
        return Reading(pattern=pattern, energy_before=before, energy_after=after, delta_energy=gap)
