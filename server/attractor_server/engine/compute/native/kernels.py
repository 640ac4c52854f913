"""Bind the native library's loops of reading and writing to the engine, for float32 and lengths in sixteens."""

import ctypes
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading
from attractor_server.energy.transform import Held, Hold, Transform
from attractor_server.engine.compute.closed_form import ClosedForm, Schedule, WriteTerms, WritingSchedule
from attractor_server.engine.compute.native.frames import HostFrames
from attractor_server.engine.compute.native.interface import fill
from attractor_server.engine.compute.native.library import library
from attractor_server.engine.compute.native_model import PANEL, NativeModel, panels

if TYPE_CHECKING:
    from attractor_server.engine.compute.bilinear import BilinearForm, BilinearWriteTerms

ROWS = 24
Function: TypeAlias = Callable[..., None]
Ways: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""From entries to values, what is added then, and from values to entries, in panels"""


@dataclass(frozen=True, eq=False)
class HostKernel:
    """See `InPlaceKernel`."""

    run: Function
    model: NativeModel
    schedule: Schedule
    transform: Transform
    ways: Ways | None
    """Between entries and values; None without a whitening"""
    framed_ways: Ways | None
    """The same of pages with frames, where values are those after scale and shift"""

    @property
    def in_order(self) -> bool:
        """See `InPlaceKernel`."""
        return self.model.in_order

    def takes(self, x: Tensor) -> bool:
        """Accept float32 that is not empty."""
        return x.dtype == torch.float32 and x.numel() > 0

    def holds(self, hold: Hold) -> bool:
        """See `InPlaceKernel`."""
        if not isinstance(hold, Held) or hold.transform is not self.transform:
            return False
        return hold.frames is None or isinstance(hold.frames, HostFrames)

    def read(self, fast: Tensors, x: Tensor, *, steps: int) -> Reading:
        """See `Kernel`."""
        return self.read_at(fast, None, x, steps=steps)

    def evaluate_at(self, fast: Tensors, places: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
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
        held, frames = None, None
        if hold is not None:
            assert isinstance(hold, Held)
            assert hold.frames is None or isinstance(hold.frames, HostFrames)
            frames = hold.frames
            held = pad(hold.targets, (0, width - hold.targets.shape[-1]), value=math.nan).contiguous()
        room = cue.new_empty(ROWS * (self.model.room + width))
        given = (places, w, b, cue, held, pattern, before, after, gap, room)
        numbers = [self.schedule.at(step) for step in range(steps)]
        sizes = (ctypes.c_float * steps)(*(one[0] for one in numbers))
        momenta = (ctypes.c_float * steps)(*(one[1] for one in numbers))
        loop = self._loop(steps, width, frames, sizes=ctypes.addressof(sizes), momenta=ctypes.addressof(momenta))
        model = fill(f"{self.model.name}_model", loop=loop, **self.model.sizes, **_addresses(self.model.tensors))
        self.run(ctypes.byref(model), pages, n, *map(_address, given))
        return Reading(pattern=pattern, energy_before=before, energy_after=after, delta_energy=gap)

    def _loop(self, steps: int, values: int, frames: HostFrames | None, **learned: int) -> ctypes.Structure:
        ways = self.ways if frames is None else self.framed_ways
        back, centre, forth = map(_address, ways or (None, None, None))
        q, qb = self.model.q, self.model.qb
        given = {"d": len(q), "steps": steps, **_addresses({"q": q, "qb": qb}), **learned}
        framed = {"framed": 0, "frames": 0} if frames is None else frames.addresses
        return fill("loop", **given, **framed, values=values, back=back, centre=centre, forth=forth)


def make_host_kernel(form: ClosedForm, schedule: Schedule, transform: Transform) -> HostKernel | None:
    """Make the kernel of this model; None where its shape or dtype does not fit, or there is no native library."""
    model = form.native_model()
    if model is None or model.q.dtype != torch.float32 or (native := library()) is None:
        return None
    run = getattr(native, f"read_{model.name}")
    whitening = transform.whitening
    if whitening is None:
        return HostKernel(run=run, model=model, schedule=schedule, transform=transform, ways=None, framed_ways=None)
    ways = _lay_out(*transform.decoder, transform.scale[:, None] * whitening.forth)
    framed = _lay_out(whitening.back, torch.zeros_like(transform.shift), whitening.forth)
    return HostKernel(run=run, model=model, schedule=schedule, transform=transform, ways=ways, framed_ways=framed)


def _lay_out(back: Tensor, centre: Tensor, forth: Tensor) -> Ways:
    room = (0, -len(centre) % PANEL)
    return panels(pad(back, room)), pad(centre, room), panels(pad(forth.mT, room).mT)


@dataclass(frozen=True, eq=False)
class HostWritingKernel:
    """See `WritingKernel`."""

    run: Function
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
        """Accept float32 that is not empty."""
        return x.dtype == torch.float32 and x.numel() > 0

    def write(self, ground: WriteTerms, fast: Tensors, schedule: WritingSchedule, *, out: Tensors) -> None:
        """See `WritingKernel`; `ground` is that of the form that this was made of."""
        ground = cast("BilinearWriteTerms", ground)  # of the form that this kernel was made for
        seen = ground.seen
        pages, n, _ = seen.v.shape
        steps = self._stack_numbers(schedule, pages)
        w, b = fast["W"].contiguous(), fast["b"].contiguous()
        weight = schedule.weight.contiguous()
        v, along_v = self._fill_up(seen.v), self._fill_up(ground.along[0].reshape(pages, n, -1))
        length = weight if seen.values.length is None else seen.values.length.contiguous()
        k, key_slope, along_k = seen.k.contiguous(), seen.key_slope.contiguous(), ground.along[1].contiguous()
        size = self.values * self.keys
        room = v.new_empty(2 * (self.wide + self.keys) * n + 2 * size + self.wide * (self.keys + 1))
        given = (steps, w, b, v, k, key_slope, length, along_v, along_k, weight, out["W"], out["b"], room)
        distances, limit = (torch.tensor(one) for one in (schedule.distances, schedule.limit.tolist()))
        pen = fill("bilinear_pen", **self._sizes(len(distances)), **self._addresses(distances, limit))
        self.run(ctypes.byref(pen), pages, n, *map(_address, given))

    def _sizes(self, steps: int) -> dict[str, int]:
        sizes = {"steps": steps, "keys": self.keys, "values": self.values, "wide": self.wide}
        return {**sizes, "entrywise": int(self.square.dim() == 1)}

    def _addresses(self, distances: Tensor, limit: Tensor) -> dict[str, int]:
        mixed, mixed_t = self.mixed
        products = {"square": self.square, "mixed": mixed, "mixed_t": mixed_t, "gram": self.gram}
        given = {"distances": distances, "limit": limit, "bound": self.bound}
        return _addresses({**products, "w0": self.w0, "b0": self.b0, **given})

    def _stack_numbers(self, schedule: WritingSchedule, pages: int) -> Tensor:
        """ε, α and the step sizes of W and b, (4, T, pages)."""
        off = schedule.weight.new_zeros(len(schedule.distances), pages)
        terms = (off if one is None else one for one in (schedule.energy, schedule.slope))
        return torch.stack([*terms, schedule.rates["W"], schedule.rates["b"]])

    def _fill_up(self, rows: Tensor) -> Tensor:
        return pad(rows, (0, self.wide - self.values)).contiguous()


def make_host_writing_kernel(form: "BilinearForm") -> HostWritingKernel | None:
    """Make the kernel of this model; None where its shape or dtype does not fit, or there is no native library."""
    keys, wide = form.a.shape[1], -(-form.values // PANEL) * PANEL
    if form.q.dtype != torch.float32 or keys % PANEL or (native := library()) is None:
        return None
    room = (0, wide - form.values)
    v, w0 = form.v, form.w0
    mixed = pad((v[:, None] * form.a[: len(v)] if v.dim() == 1 else v.mT @ form.a).mT, room).mT
    square = pad(v.square(), room) if v.dim() == 1 else panels(pad(v.mT @ v, (*room, *room)))
    return HostWritingKernel(
        run=native.write_bilinear,
        keys=keys,
        values=form.values,
        square=square,
        mixed=(panels(mixed), panels(mixed.mT)),
        gram=panels(form.a.mT @ form.a),
        w0=panels(w0),
        b0=pad(form.b0, room),
        bound=form.bound,
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _addresses(tensors: Mapping[str, Tensor | None]) -> dict[str, int]:
    return {name: _address(one) for name, one in tensors.items()}
