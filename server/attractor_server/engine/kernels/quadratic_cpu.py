"""The reading loop of the quadratic network in C, see `quadratic.c`."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading
from attractor_server.engine.kernels.native import library
from attractor_server.engine.programs.quadratic import QuadraticForm
from attractor_server.engine.programs.schedule import Schedule

PANEL, ROWS = 16, 24
SHARED = ("a", "a_t", "a0", "q", "qb", "b0", "turn", "empty")


class _Model(ctypes.Structure):
    """`model` in the source."""

    _fields_ = [  # type: ignore[mutable-override]
        *((name, ctypes.c_int64) for name in ("d", "h", "steps")),
        *((name, ctypes.c_void_p) for name in (*SHARED, "sizes", "momenta")),
    ]


@dataclass(frozen=True, eq=False)
class QuadraticOnCPU:
    """See `Kernel`; float32, d and h multiples of 16."""

    read_: ctypes.CDLL
    shared: dict[str, Tensor]
    """By the names of the source's `model`"""
    schedule: Schedule
    shape: tuple[int, int]
    """d and h"""

    @classmethod
    def of(cls, form: QuadraticForm, schedule: Schedule) -> "QuadraticOnCPU | None":
        """None where the model's shape or dtype does not fit, or the source cannot be compiled."""
        fits = form.a.dtype == torch.float32 and not any(length % PANEL for length in form.a.shape)
        if not fits or (made := library("quadratic")) is None:
            return None
        shared = {"a": _panels(form.a), "a_t": _panels(form.a.mT), "empty": _panels(form.empty)}
        shared |= {name: getattr(form, name).contiguous() for name in ("a0", "q", "qb", "b0")}
        if form.turn is not None:
            shared["turn"] = _panels(form.turn)
        d, h = form.a.shape
        return cls(made, shared, schedule, (d, h))

    def takes(self, x: Tensor) -> bool:
        """Whatever is float32."""
        return x.dtype == torch.float32 and x.numel() > 0

    def read(self, fast: Tensors, x: Tensor, *, steps: int) -> Reading:
        """See `Kernel`."""
        w, b, cue = (tensor.contiguous() for tensor in (fast["W"], fast["b"], x))
        pages, n, d = cue.shape
        pattern, (before, after, gap) = torch.empty_like(cue), cue.new_empty(3, pages, n)
        room = cue.new_empty(ROWS * (4 * d + 3 * self.shape[1]))
        given = (w, b, cue, pattern, before, after, gap, room)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in given]
        model = self._model(steps)
        self.read_.read_quadratic(ctypes.byref(model), ctypes.c_int64(pages), ctypes.c_int64(n), *pointers)
        return Reading(pattern=pattern, energy_before=before, energy_after=after, delta_energy=gap)

    def _model(self, steps: int) -> _Model:
        numbers = [self.schedule.at(step) for step in range(steps)]
        sizes = (ctypes.c_float * steps)(*(size for size, _, _ in numbers))
        momenta = (ctypes.c_float * steps)(*(momentum for _, momentum, _ in numbers))
        d, h = self.shape
        model = _Model(d=d, h=h, steps=steps, **{name: tensor.data_ptr() for name, tensor in self.shared.items()})
        model.sizes, model.momenta = ctypes.addressof(sizes), ctypes.addressof(momenta)
        model.kept = (sizes, momenta)  # as long as the model is used
        return model


def _panels(matrix: Tensor) -> Tensor:
    """A matrix (rows, columns) as [column / 16][row][16]."""
    return matrix.reshape(len(matrix), -1, PANEL).transpose(0, 1).contiguous()
