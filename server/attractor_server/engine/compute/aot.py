"""Networks without a closed form, through programs that were compiled ahead of time."""

import ctypes
import math
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_char_p, c_size_t, c_void_p
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Autodiff, EnergyNetwork, Tensors, Terms

_POINTER_IN, _CAPSULE_OF = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New

_POINTER_IN.argtypes, _POINTER_IN.restype = (ctypes.py_object, c_char_p), c_void_p

_CAPSULE_OF.argtypes, _CAPSULE_OF.restype = (c_void_p, c_char_p, c_void_p), ctypes.py_object


class Library:
    """A program with one tensor as its result. One thread at a time runs it."""

    def __init__(self, path: Path) -> None:
        """Load the library for good: its file may go.

        Raises:
            OSError: it is no such library.
            RuntimeError: it cannot be made ready.
        """
        library: Any = ctypes.CDLL(str(path))
        self._container = c_void_p()
        instances, device, no_kernels = c_size_t(1), c_char_p(b"cpu"), c_char_p(None)
        if library.AOTInductorModelContainerCreateWithDevice(byref(self._container), instances, device, no_kernels):
            raise RuntimeError(f"{path.name} cannot be made ready; standard error says why")
        self._run = library.AOTInductorModelContainerRun
        handles = POINTER(c_void_p)
        self._run.argtypes = (c_void_p, handles, c_size_t, handles, c_size_t, c_void_p, c_void_p)

    def __call__(self, inputs: list[Tensor]) -> Tensor:
        """Compute the result for these inputs, as many and of such shapes as the program was made for.

        Raises:
            RuntimeError: it cannot be computed.
        """
        owned: list[Any] = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(inputs)  # noqa: SLF001
        given = (c_void_p * len(owned))(*(_POINTER_IN(capsule, None) for capsule in owned))  # which the program frees
        made = (c_void_p * 1)()
        if self._run(self._container, given, len(owned), made, 1, None, None):
            raise RuntimeError("a compiled program failed; standard error says why")
        capsule = _CAPSULE_OF(made[0], None, None)
        (result,) = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs([capsule])  # noqa: SLF001
        return result


Program: TypeAlias = Callable[[list[Tensor]], Tensor]
"""Takes the slow tensors, the fast ones, each (memories, *shape), in the order of `shapes`, and x"""

PROGRAMS = ("energy", "input_gradient")
"""What reading asks of a network. Writing stays as it is: a replay of a journal, which may come before anything is
compiled, has to make the same bits"""

SUFFIX = ".so"


class Compiled:
    """A network whose energy and input gradient are compiled, for float32 on a CPU and any number of patterns."""

    def __init__(self, network: EnergyNetwork, programs: Mapping[str, Program], *, limit: float = math.inf) -> None:
        """`programs` by the names of `PROGRAMS`; up to `limit` patterns in a batch they are the faster way."""
        self.kind, self.config, self.shapes = network.kind, network.config, network.shapes
        self._network = network
        self._programs = programs
        self._limit = limit

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """See `EnergyNetwork`."""
        if not self._takes(x):
            return self._network.energy(slow, fast, x)
        return self._run("energy", slow, fast, x)

    def input_gradient(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """See `Gradients`."""
        if not self._takes(x):
            return Autodiff(self._network).input_gradient(slow, fast, x)
        return self._run("input_gradient", slow, fast, x)

    def write_gradient(self, slow: Tensors, fast: Tensors, x: Tensor, weight: Tensor, terms: Terms) -> Tensors:
        """See `Gradients`."""
        return Autodiff(self._network).write_gradient(slow, fast, x, weight, terms)

    def _takes(self, x: Tensor) -> bool:
        return x.dtype is torch.float32 and x.device.type == "cpu" and 0 < x.shape[0] * x.shape[1] <= self._limit

    def _run(self, name: str, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """Run a program, on contiguous tensors: it knows no other strides, and does not ask."""
        shared, own = self.shapes
        tensors = *(slow[name] for name in shared), *(fast[name] for name in own), x
        return self._programs[name]([tensor.contiguous() for tensor in tensors])


_COMPILED: dict[EnergyNetwork, Compiled] = {}
"""By networks, which are equal where their `kind` and `config` are"""


def adopt(network: EnergyNetwork, compiled: Compiled) -> None:
    """Read models with that network through its programs from now on."""
    _COMPILED[network] = compiled


def network_for(model: Model) -> EnergyNetwork:
    """Return the model's network, compiled where that has been done."""
    return _COMPILED.get(model.network, model.network) if _COMPILED else model.network


def load(folder: Path) -> Mapping[str, Program]:
    """Load the programs in that folder, which may go afterwards.

    Raises:
        OSError: one is missing, or cannot be loaded.
        RuntimeError: one cannot be made ready.
    """
    return {name: Library(folder / f"{name}{SUFFIX}") for name in PROGRAMS}
