"""Reading, writing and energies of a batch of pages, by the fastest way that a model's network has."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading, read
from attractor_server.energy.transform import Hold, Pull
from attractor_server.energy.writer import empty_energy, write
from attractor_server.engine.compute.aot import network_for
from attractor_server.engine.compute.closed_form import ClosedForm, InPlaceKernel, Kernel, Schedule, WritingKernel
from attractor_server.engine.compute.cuda_graphs import GraphedReads
from attractor_server.engine.compute.loops import read_form, write_form
from attractor_server.engine.compute.registry import make_closed_form


@dataclass(frozen=True, kw_only=True)
class ComputePath:
    """A model's closed form, with the kernels for its loops where there are any."""

    form: ClosedForm
    schedule: Schedule
    kernel: Kernel | None
    """For its readings"""
    in_place: InPlaceKernel | None
    """The same, where it reads pages in place and holds what is known"""
    writing: WritingKernel | None


_WAYS: "dict[int, tuple[weakref.ref[Model], ComputePath | None]]" = {}
"""By identity, since a model has no other before it went through a file; an entry leaves with its model"""


def compute_path(model: Model) -> ComputePath | None:
    """The model's way, made on first use, which may compile a kernel; None where its network has no closed form."""
    key = id(model)
    found = _WAYS.get(key)
    if found is None:
        found = _WAYS[key] = (weakref.ref(model, lambda _: _WAYS.pop(key, None)), _made(model))
    return found[1]


def _made(model: Model) -> ComputePath | None:
    form, schedule = make_closed_form(model), Schedule.of(model.parameters.reader)
    if form is None:
        return None
    kernel = _reading_kernel(form, schedule, model)
    in_place = kernel if isinstance(kernel, InPlaceKernel) else None
    writing = form.writing_kernel() if model.device.type == "cpu" else None
    return ComputePath(form=form, schedule=schedule, kernel=kernel, in_place=in_place, writing=writing)


def _reading_kernel(form: ClosedForm, schedule: Schedule, model: Model) -> Kernel | None:
    """In C on a CPU; on CUDA the form's launches as one graph.

    The former knows the forms, so it is imported here, once it is needed.
    """
    if model.device.type == "cpu":
        from attractor_server.engine.native.kernels import make_host_kernel  # noqa: PLC0415

        return make_host_kernel(form, schedule, model.transform)
    cuda = model.device.type == "cuda"
    return GraphedReads(form=form, schedule=schedule, page_bytes=model.page_bytes) if cuda else None


READ_BYTES = 4 << 20
"""Fast weights that one chunk of a reading holds: all K steps find them in the cache"""

WRITE_BYTES = 2 << 20
"""The same of a writing, which keeps gradients of that size beside them"""


@torch.no_grad()
def reading(  # noqa: PLR0913
    model: Model,
    fast: Tensors,  # each (pages, *shape)
    x: Tensor,  # (pages, patterns, d)
    *,
    hold: Hold | None = None,
    pull: Pull | None = None,
    steps: int = 0,
    trajectory: bool = False,
) -> Reading:
    """What the cues x lead to in `steps` steps of the reading loop (0: as many as were trained).

    Fast weights are those that writing and erasing make from the model's initial ones.
    """
    way, steps = compute_path(model), steps or model.steps
    if way is None or trajectory:
        fast = _like(fast, x)
        return read(
            network_for(model), model.parameters, fast, x, hold=hold, pull=pull, steps=steps, trajectory=trajectory
        )
    if (
        hold is not None
        and pull is None
        and way.in_place is not None
        and way.in_place.takes(x)
        and way.in_place.holds(hold)
    ):
        return way.in_place.read_at(_like(fast, x), None, x, steps=steps, hold=hold)
    if hold is not None or pull is not None:  # they know the whole batch, and nothing of its parts
        return read_form(way.form, way.schedule, _like(fast, x), x, hold=hold, pull=pull, steps=steps)
    if way.kernel is not None and way.kernel.takes(x):
        return way.kernel.read(_like(fast, x), x, steps=steps)
    chunks = _chunks(model, fast, x, READ_BYTES)
    parts = [read_form(way.form, way.schedule, own, cues, steps=steps) for own, cues in chunks]
    return parts[0] if len(parts) == 1 else _joined(parts)


def reads_in_place(model: Model) -> bool:
    """Whether `reading_at` is there for the model's pages in float32."""
    way = compute_path(model)
    return way is not None and way.in_place is not None and way.in_place.in_order


@torch.no_grad()
def reading_at(  # noqa: PLR0913
    model: Model, bank: Tensors, places: Tensor, x: Tensor, *, hold: Hold | None = None, steps: int = 0
) -> Reading:
    """What `reading` makes of the pages at these places (pages,) int64 of a bank's tensors, each (places, *shape).

    No page is copied. For models that read in place.
    """
    way = compute_path(model)
    assert way is not None
    assert way.in_place is not None
    return way.in_place.read_at(bank, places, x, steps=steps or model.steps, hold=hold)


@torch.no_grad()
def writing(
    model: Model,
    fast: Tensors,  # each (pages, *shape)
    x: Tensor,  # (pages, patterns, d)
    *,
    present: Tensor,  # (pages, patterns) bool
    stored: Tensor,  # (pages,) patterns written before
) -> Tensors:
    """The fast weights after writing the patterns that are present, each (pages, *shape), like x in dtype."""
    way = compute_path(model)
    if way is None or not model.parameters.writing_steps:
        return write(model.network, model.parameters, _like(fast, x), x, present=present, stored=stored)
    out = {name: value.new_empty(value.shape, dtype=x.dtype) for name, value in fast.items()}
    start = 0
    for own, patterns in _chunks(model, fast, x, WRITE_BYTES):
        part = slice(start, start := start + len(patterns))
        here, before, places = present[part], stored[part], {name: value[part] for name, value in out.items()}
        write_form(
            way.form,
            model.parameters,
            own,
            patterns,
            present=here,
            stored=before,
            out=places,
            kernel=way.writing,
        )
    return out


@torch.no_grad()
def energies(model: Model, fast: Tensors, x: Tensor) -> Tensor:
    """E(x; θ), (pages, patterns), of x (pages, patterns, d); each fast tensor is (pages, *shape)."""
    way = compute_path(model)
    if way is None:
        return network_for(model).energy(model.parameters.slow, _like(fast, x), x)
    if way.in_place is not None and way.in_place.takes(x):
        return way.in_place.look_at(_like(fast, x), None, x)[0]
    return torch.cat([way.form.look(own, part).energy() for own, part in _chunks(model, fast, x, READ_BYTES)])


@torch.no_grad()
def recognizing(model: Model, fast: Tensors, x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x; θ) and E(x; θ) − E(x; θ₀), (pages, patterns) each."""
    way = compute_path(model)
    if way is None:
        energy = energies(model, fast, x)
        return energy, energy - empty_energy(network_for(model), model.parameters, x)
    if way.in_place is not None and way.in_place.takes(x):
        return way.in_place.look_at(_like(fast, x), None, x)
    looks = [way.form.look(own, part) for own, part in _chunks(model, fast, x, READ_BYTES)]
    return torch.cat([look.energy() for look in looks]), torch.cat([look.gap() for look in looks])


@torch.no_grad()
def recognizing_at(model: Model, bank: Tensors, places: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same of pages as of `reading_at`."""
    way = compute_path(model)
    assert way is not None
    assert way.in_place is not None
    return way.in_place.look_at(bank, places, x)


def _side_by_side(model: Model, limit_bytes: int) -> int:
    """Pages in a chunk, a power of two; on an accelerator all of them."""
    if model.device.type != "cpu":
        return 1 << 30
    return 1 << max(0, round(limit_bytes / model.page_bytes).bit_length() - 1)


def _chunks(model: Model, fast: Tensors, x: Tensor, limit_bytes: int) -> Iterator[tuple[Tensors, Tensor]]:
    """The batch in parts, as views; weights that are kept in another dtype become like x part by part."""
    size = _side_by_side(model, limit_bytes)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield _like({name: value[part] for name, value in fast.items()}, x), x[part]


def _like(fast: Tensors, x: Tensor) -> Tensors:
    return {name: value.to(x.dtype) for name, value in fast.items()}


def _joined(parts: list[Reading]) -> Reading:
    return Reading(
        pattern=torch.cat([part.pattern for part in parts]),
        energy_before=torch.cat([part.energy_before for part in parts]),
        energy_after=torch.cat([part.energy_after for part in parts]),
        delta_energy=torch.cat([part.delta_energy for part in parts]),
    )
