"""Which way a model's loops take: a kernel where one fits, else a closed form on tensors, else the plain loops."""

import weakref
from dataclasses import dataclass

from attractor_server.energy.model import Model
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.engine.programs.bilinear import BilinearForm
from attractor_server.engine.programs.forms import Form, InPlaceKernel, Kernel, WritingKernel
from attractor_server.engine.programs.graphs import GraphedReads
from attractor_server.engine.programs.quadratic import QuadraticForm
from attractor_server.engine.programs.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Way:
    """A model's closed form, with the kernels for its loops where there are any."""

    form: Form
    schedule: Schedule
    kernel: Kernel | None
    """For its readings"""
    in_place: InPlaceKernel | None
    """The same, where it reads pages in place and holds what is known"""
    writing: WritingKernel | None


_WAYS: "dict[int, tuple[weakref.ref[Model], Way | None]]" = {}
"""By identity, since a model has no other before it went through a file; an entry leaves with its model"""


def way_of(model: Model) -> Way | None:
    """The model's way, made on first use, which may compile a kernel; None where its network has no closed form."""
    key = id(model)
    found = _WAYS.get(key)
    if found is None:
        found = _WAYS[key] = (weakref.ref(model, lambda _: _WAYS.pop(key, None)), _made(model))
    return found[1]


def _made(model: Model) -> Way | None:
    schedule = Schedule.of(model.parameters.reader)
    if isinstance(model.network, Quadratic):
        form: QuadraticForm | BilinearForm = QuadraticForm.of(model.parameters)
    elif isinstance(model.network, Bilinear):
        form = BilinearForm.of(model.parameters, waves=model.network.waves)
    else:
        return None
    kernel = kernel_of(form, schedule, model)
    in_place = kernel if isinstance(kernel, InPlaceKernel) else None
    return Way(form=form, schedule=schedule, kernel=kernel, in_place=in_place, writing=_writing_kernel_of(form))


def kernel_of(form: QuadraticForm | BilinearForm, schedule: Schedule, model: Model) -> Kernel | None:
    """In C on a CPU; on CUDA the form's launches as one graph.

    The former knows the forms, so it is imported here, once it is needed.
    """
    device = form.q.device.type
    if device == "cpu":
        from attractor_server.engine.kernels.host import host_kernel  # noqa: PLC0415

        return host_kernel(form, schedule, model.transform)
    return GraphedReads(form=form, schedule=schedule, page_bytes=model.page_bytes) if device == "cuda" else None


def _writing_kernel_of(form: QuadraticForm | BilinearForm) -> WritingKernel | None:
    """In C on a CPU, for the bilinear network; the quadratic one's small products are quick on tensors."""
    if form.q.device.type != "cpu" or not isinstance(form, BilinearForm):
        return None
    from attractor_server.engine.kernels.host_writing import host_writing_kernel  # noqa: PLC0415

    return host_writing_kernel(form)
