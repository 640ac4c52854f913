"""Which way a model's loops take: a kernel where one fits, else a closed form on tensors, else the plain loops."""

import weakref
from dataclasses import dataclass
from importlib.util import find_spec

from attractor_server.energy.model import Model
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.engine.programs.bilinear import BilinearForm
from attractor_server.engine.programs.forms import Form, Kernel
from attractor_server.engine.programs.quadratic import QuadraticForm
from attractor_server.engine.programs.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Way:
    """A model's closed form, with the kernel for its readings where there is one."""

    form: Form
    schedule: Schedule
    kernel: Kernel | None


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
        form = QuadraticForm.of(model.parameters)
        return Way(form=form, schedule=schedule, kernel=_kernel(form, schedule))
    if isinstance(model.network, Bilinear):
        return Way(form=BilinearForm.of(model.parameters), schedule=schedule, kernel=None)
    return None


def _kernel(form: QuadraticForm, schedule: Schedule) -> Kernel | None:
    """Kernels know the forms, and Triton is there only with CUDA: both are imported here, once they are needed."""
    device = form.a.device.type
    if device == "cpu":
        from attractor_server.engine.kernels.quadratic_cpu import QuadraticOnCPU  # noqa: PLC0415

        return QuadraticOnCPU.of(form, schedule)
    if device == "cuda" and find_spec("triton") is not None:
        from attractor_server.engine.kernels.quadratic_cuda import QuadraticOnCUDA  # noqa: PLC0415

        return QuadraticOnCUDA.of(form, schedule)
    return None
