"""The writing loop of the bilinear network in C on the host: `bilinear.c`, for float32 and keys in sixteens."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.engine.compute.bilinear import BilinearForm, BilinearWriteTerms
from attractor_server.engine.compute.closed_form import WriteTerms, WritingSchedule
from attractor_server.engine.native.build import library
from attractor_server.engine.native.kernels import PANEL, panels


@dataclass(frozen=True, eq=False)
class HostWritingKernel:
    """See `WritingKernel`."""

    library: ctypes.CDLL
    keys: int
    values: int
    square: Tensor
    """VᵀV in panels, or its diagonal where it has no more"""
    mixed: tuple[Tensor, Tensor]
    """VᵀA and its transpose, in panels"""
    gram: Tensor
    """AᵀA in panels"""
    w0: Tensor
    b0: Tensor
    bound: Tensor | None
    """c, (1,); None where values are not bounded"""

    @property
    def wide(self) -> int:
        """Values, filled up to whole panels."""
        return len(self.b0)

    def takes(self, x: Tensor) -> bool:
        """Whatever is float32."""
        return x.dtype == torch.float32 and x.numel() > 0

    def write(self, ground: WriteTerms, fast: Tensors, schedule: WritingSchedule, *, out: Tensors) -> None:
        """See `WritingKernel`; `ground` is that of the form that this was made of."""
        assert isinstance(ground, BilinearWriteTerms)
        seen = ground.seen
        pages, n, _ = seen.v.shape
        steps = self._numbers(schedule, pages)
        w, b = fast["W"].contiguous(), fast["b"].contiguous()
        weight = schedule.weight.contiguous()
        v, along_v = self._filled(seen.v), self._filled(ground.along[0].reshape(pages, n, -1))
        length = weight if seen.values.length is None else seen.values.length.contiguous()
        k, bent, along_k = seen.k.contiguous(), seen.bent.contiguous(), ground.along[1].contiguous()
        size = self.values * self.keys
        room = v.new_empty(2 * (self.wide + self.keys) * n + 2 * size + self.wide * (self.keys + 1))
        given = (steps, w, b, v, k, bent, length, along_v, along_k, weight, out["W"], out["b"], room)
        distances, limit = (torch.tensor(one) for one in (schedule.distances, schedule.limit.tolist()))
        shared = (self.mixed[0], self.mixed[1], self.gram, self.w0, self.b0, distances, limit)
        entrywise = int(self.square.dim() == 1)
        numbers = [len(schedule.distances), self.keys, self.values, self.wide, self.square.data_ptr(), entrywise]
        fields = [*numbers, *(one.data_ptr() for one in shared), 0 if self.bound is None else self.bound.data_ptr()]
        pen = (ctypes.c_int64 * len(fields))(*fields)  # the source's `pen`: every field of it takes 8 bytes
        sizes = (ctypes.c_int64(pages), ctypes.c_int64(n))
        self.library.write_bilinear(pen, *sizes, *(ctypes.c_void_p(one.data_ptr()) for one in given))

    def _numbers(self, schedule: WritingSchedule, pages: int) -> Tensor:
        """ε, α and the step sizes of W and b, (4, T, pages)."""
        off = schedule.weight.new_zeros(len(schedule.distances), pages)
        terms = (off if one is None else one for one in (schedule.energy, schedule.slope))
        return torch.stack([*terms, schedule.rates["W"], schedule.rates["b"]])

    def _filled(self, rows: Tensor) -> Tensor:
        return pad(rows, (0, self.wide - self.values)).contiguous()


def host_writing_kernel(form: BilinearForm) -> HostWritingKernel | None:
    """The kernel for this model; None where its shape or dtype does not fit, or the source cannot be compiled."""
    keys, wide = form.a.shape[1], -(-form.values // PANEL) * PANEL
    if form.q.dtype != torch.float32 or keys % PANEL or (made := library("bilinear")) is None:
        return None
    room = (0, wide - form.values)
    v, w0 = form.v, form.w0
    mixed = pad((v[:, None] * form.a[: len(v)] if v.dim() == 1 else v.mT @ form.a).mT, room).mT
    square = pad(v.square(), room) if v.dim() == 1 else panels(pad(v.mT @ v, (*room, *room)))
    return HostWritingKernel(
        library=made,
        keys=keys,
        values=form.values,
        square=square,
        mixed=(panels(mixed), panels(mixed.mT)),
        gram=panels(form.a.mT @ form.a),
        w0=panels(w0),
        b0=pad(form.b0, room),
        bound=form.bound,
    )
