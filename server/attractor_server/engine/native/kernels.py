"""Kernels in C that run on the host: `quadratic.c` and `bilinear.c`, for float32 and lengths in sixteens."""

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading
from attractor_server.energy.transform import Held, Hold, Transform
from attractor_server.engine.compute.bilinear import BilinearForm
from attractor_server.engine.compute.closed_form import Schedule
from attractor_server.engine.compute.quadratic import QuadraticForm
from attractor_server.engine.native.build import library

PANEL, ROWS = 16, 24
Made: TypeAlias = tuple[ctypes.CDLL, Mapping[str, int], Mapping[str, Tensor | None], int]
"""A library, the sizes and pointers of its source's `model`, and the floats that a row needs"""


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
    transform: Transform
    ways: tuple[Tensor, Tensor, Tensor] | None
    """From entries to values, what is added then, and from values to entries, in panels; None without a whitening"""

    @property
    def in_order(self) -> bool:
        """See `InPlaceKernel`."""
        return self.kind == "bilinear"

    def takes(self, x: Tensor) -> bool:
        """Whatever is float32."""
        return x.dtype == torch.float32 and x.numel() > 0

    def holds(self, hold: Hold) -> bool:
        """See `InPlaceKernel`."""
        return isinstance(hold, Held) and hold.transform is self.transform

    def read(self, fast: Tensors, x: Tensor, *, steps: int) -> Reading:
        """See `Kernel`."""
        return self.read_at(fast, None, x, steps=steps)

    def look_at(self, fast: Tensors, places: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `InPlaceKernel`."""
        reading = self.read_at(fast, places, x, steps=0)
        return reading.energy_before, reading.delta_energy

    def read_at(
        self, fast: Tensors, places: Tensor | None, x: Tensor, *, steps: int, hold: Hold | None = None
    ) -> Reading:
        """See `InPlaceKernel`."""
        w, b, cue = (tensor.contiguous() for tensor in (fast["W"], fast["b"], x))
        places = None if places is None else places.contiguous()
        pages, n, d = cue.shape
        pattern, (before, after, gap) = torch.empty_like(cue), cue.new_empty(3, pages, n)
        width = d if self.ways is None else len(self.ways[1])
        held = None
        if hold is not None:
            assert isinstance(hold, Held)
            held = pad(hold.targets, (0, width - hold.targets.shape[-1]), value=math.nan).contiguous()
        room = cue.new_empty(ROWS * (self.room + width))
        given = (places, w, b, cue, held, pattern, before, after, gap, room)
        numbers = [self.schedule.at(step) for step in range(steps)]
        learned = [
            (ctypes.c_float * steps)(*column) for column in ([one[0] for one in numbers], [one[1] for one in numbers])
        ]
        pointers = [self.q.data_ptr(), self.qb.data_ptr(), *map(ctypes.addressof, learned)]
        ways = map(_address, self.ways or (None, None, None))
        fields = [d, steps, *pointers, width, *ways, *self.sizes.values(), *map(_address, self.shared.values())]
        model = (ctypes.c_int64 * len(fields))(*fields)  # the source's `model`: every field of it takes 8 bytes
        run = self.library[f"read_{self.kind}"]
        run(model, ctypes.c_int64(pages), ctypes.c_int64(n), *(ctypes.c_void_p(_address(one)) for one in given))
        return Reading(pattern=pattern, energy_before=before, energy_after=after, delta_energy=gap)


def host_kernel(form: QuadraticForm | BilinearForm, schedule: Schedule, transform: Transform) -> HostKernel | None:
    """The kernel for this model; None where its shape or dtype does not fit, or the source cannot be compiled."""
    if form.q.dtype != torch.float32:
        return None
    made = _quadratic(form) if isinstance(form, QuadraticForm) else _bilinear(form)
    if made is None:
        return None
    library, sizes, shared, room = made
    return HostKernel(
        library=library,
        kind="quadratic" if isinstance(form, QuadraticForm) else "bilinear",
        sizes=sizes,
        shared=shared,
        q=form.q.contiguous(),
        qb=form.qb.contiguous(),
        schedule=schedule,
        room=room,
        transform=transform,
        ways=_ways(transform),
    )


def _ways(transform: Transform) -> tuple[Tensor, Tensor, Tensor] | None:
    if transform.whitening is None:
        return None
    (back, centre), forth = transform.decoder, transform.scale[:, None] * transform.whitening.forth
    room = (0, -len(centre) % PANEL)
    return panels(pad(back, room)), pad(centre, room), panels(pad(forth.mT, room).mT)


def _quadratic(form: QuadraticForm) -> Made | None:
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
    return made, {"h": h}, shared, 4 * d + 3 * h


def _bilinear(form: BilinearForm) -> Made | None:
    (d, keys), wide = form.a.shape, -(-form.values // PANEL) * PANEL
    if d % PANEL or keys % PANEL or form.waves % PANEL or (made := library("bilinear")) is None:
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
        "bound": form.bound,
    }
    sizes = {"keys": keys, "values": form.values, "wide": wide, "waves": form.waves}
    return made, sizes, shared, 4 * d + 3 * keys + 3 * wide + 1


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def panels(matrix: Tensor) -> Tensor:
    """A matrix (rows, columns) as [column / 16][row][16]."""
    return matrix.reshape(len(matrix), -1, PANEL).transpose(0, 1).contiguous()
