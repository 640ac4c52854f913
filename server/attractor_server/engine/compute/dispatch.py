"""Reading, writing and energies of a batch of pages, by the fastest path of a model's network."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.frame import Framing, weights_of
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
    """Of the reading loop"""
    in_place: InPlaceKernel | None
    """That kernel, where it reads pages in place and puts known values back"""
    writing: WritingKernel | None
    """Kernel of the writing loop"""


_PATHS: "dict[int, tuple[weakref.ref[Model], ComputePath | None]]" = {}
"""By identity, since a model has no other before it went through a file; an entry leaves with its model"""


def compute_path(model: Model) -> ComputePath | None:
    """Return the model's path, made on first use, which may compile a kernel; None without a closed form."""
    key = id(model)
    found = _PATHS.get(key)
    if found is None:
        found = _PATHS[key] = (weakref.ref(model, lambda _: _PATHS.pop(key, None)), _make_path(model))
    return found[1]


def _make_path(model: Model) -> ComputePath | None:
    form, schedule = make_closed_form(model), Schedule.of(model.parameters.reader)
    if form is None:
        return None
    kernel = _make_reading_kernel(form, schedule, model)
    in_place = kernel if isinstance(kernel, InPlaceKernel) else None
    writing = form.make_writing_kernel() if model.device.type == "cpu" else None
    return ComputePath(form=form, schedule=schedule, kernel=kernel, in_place=in_place, writing=writing)


def _make_reading_kernel(form: ClosedForm, schedule: Schedule, model: Model) -> Kernel | None:
    """Make a kernel in C on a CPU; on CUDA, one that launches the form's operations as one graph."""
    if model.device.type == "cpu":
        from attractor_server.engine.compute.native.kernels import make_host_kernel  # noqa: PLC0415 - which knows the forms

        return make_host_kernel(form, schedule, model.transform)
    cuda = model.device.type == "cuda"
    return GraphedReads(form=form, schedule=schedule, page_bytes=model.weights_bytes) if cuda else None


READ_BYTES = 4 << 20
"""Fast weights in one chunk of a reading: all K steps find them in the cache"""

WRITE_BYTES = 2 << 20
"""Fast weights in one chunk of a writing, which has gradients of that size beside them"""


@torch.no_grad()
def read_pages(  # noqa: PLR0913
    model: Model,
    fast: Tensors,  # each (pages, *shape)
    x: Tensor,  # (pages, patterns, d)
    *,
    hold: Hold | None = None,
    pull: Pull | None = None,
    steps: int = 0,
    trajectory: bool = False,
) -> Reading:
    """Read what the cues x lead to in `steps` steps of the reading loop (0: as many as were trained).

    Fast weights are those that writing and erasing make from the model's initial ones; frames beside them have no
    effect here.
    """
    path, steps = compute_path(model), steps or model.steps
    if path is None or trajectory:
        fast = _cast_like(fast, x)
        return read(
            network_for(model), model.parameters, fast, x, hold=hold, pull=pull, steps=steps, trajectory=trajectory
        )
    if (
        hold is not None
        and pull is None
        and path.in_place is not None
        and path.in_place.takes(x)
        and path.in_place.holds(hold)
    ):
        return path.in_place.read_at(_cast_like(fast, x), None, x, steps=steps, hold=hold)
    if hold is not None or pull is not None:  # they know the whole batch, and nothing of its parts
        return read_form(path.form, path.schedule, _cast_like(fast, x), x, hold=hold, pull=pull, steps=steps)
    if path.kernel is not None and path.kernel.takes(x):
        return path.kernel.read(_cast_like(fast, x), x, steps=steps)
    chunks = _cut(model, fast, x, READ_BYTES)
    parts = [read_form(path.form, path.schedule, own, cues, steps=steps) for own, cues in chunks]
    return parts[0] if len(parts) == 1 else _join(parts)


def find_frames(model: Model, pages: Tensors, places: Tensor | None = None) -> Framing | None:
    """Return the frames among the tensors of pages, each (pages, *shape), by the fastest path; None without any.

    With `places` (pages,) int64 each is (places, *shape), as in a bank.
    """
    frames = model.frames_of(pages)
    if frames is None:
        return None
    if model.device.type == "cpu":
        from attractor_server.engine.compute.native.frames import make_host_frames  # noqa: PLC0415 - compiles

        if (host := make_host_frames(frames, places)) is not None:
            return host
    return frames if places is None else frames.select(places)


def can_read_in_place(model: Model) -> bool:
    """Return whether `read_in_place` is there for the model's pages in float32."""
    path = compute_path(model)
    return path is not None and path.in_place is not None and path.in_place.in_order


@torch.no_grad()
def read_in_place(  # noqa: PLR0913
    model: Model, bank: Tensors, places: Tensor, x: Tensor, *, hold: Hold | None = None, steps: int = 0
) -> Reading:
    """Read as `read_pages` does, in the pages at these places (pages,) int64 of a bank's tensors (places, *shape).

    No page is copied. For models that read in place.
    """
    path = compute_path(model)
    assert path is not None
    assert path.in_place is not None
    return path.in_place.read_at(bank, places, x, steps=steps or model.steps, hold=hold)


@torch.no_grad()
def write_pages(
    model: Model,
    fast: Tensors,  # each (pages, *shape)
    x: Tensor,  # (pages, patterns, d)
    *,
    present: Tensor,  # (pages, patterns) bool
    stored: Tensor,  # (pages,) patterns written before
) -> Tensors:
    """Return the fast weights after writing the patterns that are present, each (pages, *shape), like x in dtype."""
    path = compute_path(model)
    if path is None or not model.parameters.writing_steps:
        return write(model.network, model.parameters, _cast_like(fast, x), x, present=present, stored=stored)
    fast = weights_of(fast)
    out = {name: value.new_empty(value.shape, dtype=x.dtype) for name, value in fast.items()}
    start = 0
    for own, patterns in _cut(model, fast, x, WRITE_BYTES):
        part = slice(start, start := start + len(patterns))
        here, before, places = present[part], stored[part], {name: value[part] for name, value in out.items()}
        write_form(
            path.form,
            model.parameters,
            own,
            patterns,
            present=here,
            stored=before,
            out=places,
            kernel=path.writing,
        )
    return out


@torch.no_grad()
def compute_energies(model: Model, fast: Tensors, x: Tensor) -> Tensor:
    """Compute E(x; θ), (pages, patterns), of x (pages, patterns, d); each fast tensor is (pages, *shape)."""
    path = compute_path(model)
    if path is None:
        return network_for(model).energy(model.parameters.slow, _cast_like(fast, x), x)
    if path.in_place is not None and path.in_place.takes(x):
        return path.in_place.evaluate_at(_cast_like(fast, x), None, x)[0]
    return torch.cat([path.form.evaluate(own, part).energy() for own, part in _cut(model, fast, x, READ_BYTES)])


@torch.no_grad()
def recognize_pages(model: Model, fast: Tensors, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute E(x; θ) and E(x; θ) − E(x; θ₀), (pages, patterns) each."""
    path = compute_path(model)
    if path is None:
        energy = compute_energies(model, fast, x)
        return energy, energy - empty_energy(network_for(model), model.parameters, x)
    if path.in_place is not None and path.in_place.takes(x):
        return path.in_place.evaluate_at(_cast_like(fast, x), None, x)
    looks = [path.form.evaluate(own, part) for own, part in _cut(model, fast, x, READ_BYTES)]
    return torch.cat([look.energy() for look in looks]), torch.cat([look.gap() for look in looks])


@torch.no_grad()
def recognize_in_place(model: Model, bank: Tensors, places: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute as `recognize_pages` does, in pages given as to `read_in_place`."""
    path = compute_path(model)
    assert path is not None
    assert path.in_place is not None
    return path.in_place.evaluate_at(bank, places, x)


def _pages_in_chunk(model: Model, limit_bytes: int) -> int:
    """Return the number of pages in a chunk, a power of two; on an accelerator it has no bound."""
    if model.device.type != "cpu":
        return 1 << 30
    return 1 << max(0, round(limit_bytes / model.weights_bytes).bit_length() - 1)


def _cut(model: Model, fast: Tensors, x: Tensor, limit_bytes: int) -> Iterator[tuple[Tensors, Tensor]]:
    """Cut the batch into parts, as views; weights of another dtype are cast like x part by part."""
    size = _pages_in_chunk(model, limit_bytes)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield _cast_like({name: value[part] for name, value in fast.items()}, x), x[part]


def _cast_like(fast: Tensors, x: Tensor) -> Tensors:
    """Return the fast weights among a page's tensors, like x in dtype."""
    return {name: value.to(x.dtype) for name, value in weights_of(fast).items()}


def _join(parts: list[Reading]) -> Reading:
    return Reading(
        pattern=torch.cat([part.pattern for part in parts]),
        energy_before=torch.cat([part.energy_before for part in parts]),
        energy_after=torch.cat([part.energy_after for part in parts]),
        delta_energy=torch.cat([part.delta_energy for part in parts]),
    )
