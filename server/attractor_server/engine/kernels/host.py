"""Kernels in C that run on the host: `quadratic.c` and `bilinear.c`, for float32 and lengths in sixteens."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading
from attractor_server.engine.kernels.native import library
from attractor_server.engine.programs.bilinear import BilinearForm
from attractor_server.engine.programs.quadratic import QuadraticForm
from attractor_server.engine.programs.schedule import Schedule

PANEL, ROWS = 16, 24


@dataclass(frozen=True, eq=False)
class HostKernel:
    """See `InPlaceKernel`."""

    library: ctypes.CDLL
    kind: str
    """Of the network: its source's name"""
    sizes: Mapping[str, int]
    """Those of the source's `model`, in their order"""
    shared: Mapping[str, Tensor | None]
    """Its pointers, in their order"""
    q: Tensor
    qb: Tensor
    schedule: Schedule
    room: int
    """Floats that a row needs"""

    @property
    def in_order(self) -> bool:
        """See `InPlaceKernel`."""
        return self.kind == "bilinear"

    def takes(self, x: Tensor) -> bool:
        """Whatever is float32."""
        return x.dtype == torch.float32 and x.numel() > 0

    def read(self, fast: Tensors, x: Tensor, *, steps: int) -> Reading:
        """See `Kernel`."""
        return self._read(fast, None, x, steps)

    def read_at(self, fast: Tensors, places: Tensor, x: Tensor, *, steps: int) -> Reading:
        """See `InPlaceKernel`."""
        return self._read(fast, places.contiguous(), x, steps)

    def _read(self, fast: Tensors, places: Tensor | None, x: Tensor, steps: int) -> Reading:
        w, b, cue = (tensor.contiguous() for tensor in (fast["W"], fast["b"], x))
        pages, n, d = cue.shape
        pattern, (before, after, gap) = torch.empty_like(cue), cue.new_empty(3, pages, n)
        room = cue.new_empty(ROWS * self.room)
        given = (w, b, cue, pattern, before, after, gap, room)
        numbers = [self.schedule.at(step) for step in range(steps)]
        learned = [
            (ctypes.c_float * steps)(*column) for column in ([one[0] for one in numbers], [one[1] for one in numbers])
        ]
        pointers = [self.q.data_ptr(), self.qb.data_ptr(), *map(ctypes.addressof, learned)]
        behind = [0 if tensor is None else tensor.data_ptr() for tensor in self.shared.values()]
        fields = [d, steps, *pointers, *self.sizes.values(), *behind]
        model = (ctypes.c_int64 * len(fields))(*fields)  # the source's `model`: every field of it takes 8 bytes
        run = self.library[f"read_{self.kind}"]
        where = ctypes.c_void_p(None if places is None else places.data_ptr())
        run(model, ctypes.c_int64(pages), ctypes.c_int64(n), where, *(ctypes.c_void_p(one.data_ptr()) for one in given))
        return Reading(pattern=pattern, energy_before=before, energy_after=after, delta_energy=gap)


def host_kernel(form: QuadraticForm | BilinearForm, schedule: Schedule) -> HostKernel | None:
    """The kernel for this model; None where its shape or dtype does not fit, or the source cannot be compiled."""
    if form.q.dtype != torch.float32:
        return None
    return _quadratic(form, schedule) if isinstance(form, QuadraticForm) else _bilinear(form, schedule)


def _quadratic(form: QuadraticForm, schedule: Schedule) -> HostKernel | None:
    d, h = form.a.shape
    if d % PANEL or h % PANEL or (made := library("quadratic")) is None:
        return None
    shared = {
        "a": panels(form.a),
        "a_t": panels(form.a.mT),
        "a0": form.a0.contiguous(),
        "b0": form.b0.contiguous(),
        "turn": None if form.turn is None else panels(form.turn),
        "empty": panels(form.empty),
    }
    q, qb = form.q.contiguous(), form.qb.contiguous()
    return HostKernel(made, "quadratic", {"h": h}, shared, q, qb, schedule, 4 * d + 3 * h)


def _bilinear(form: BilinearForm, schedule: Schedule) -> HostKernel | None:
    (d, keys), wide = form.a.shape, -(-form.values // PANEL) * PANEL
    if d % PANEL or keys % PANEL or (made := library("bilinear")) is None:
        return None
    room = (0, wide - form.values)
    v, entrywise = pad(form.v, room), form.v.dim() == 1
    shared = {
        "a": panels(form.a),
        "a_t": panels(form.a.mT),
        "v": v if entrywise else panels(v),
        "v_t": None if entrywise else panels(v.mT),
        "a0": form.a0.contiguous(),
        "b0": pad(form.b0, room),
        "w0_t": panels(pad(form.w0.mT, room)),
    }
    sizes = {"keys": keys, "values": form.values, "wide": wide}
    q, qb = form.q.contiguous(), form.qb.contiguous()
    return HostKernel(made, "bilinear", sizes, shared, q, qb, schedule, 4 * d + 2 * keys + 3 * wide)


def panels(matrix: Tensor) -> Tensor:
    """A matrix (rows, columns) as [column / 16][row][16]."""
    return matrix.reshape(len(matrix), -1, PANEL).transpose(0, 1).contiguous()
