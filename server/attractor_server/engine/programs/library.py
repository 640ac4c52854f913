"""Programs that torch's compiler made ahead of time, as libraries, run while others have the interpreter.

`AOTIModelPackageLoader.run`, torch's own way, keeps it, so that the event loop would stand still, and to load a program
torch imports its whole compiler. Their C interface (torch/csrc/inductor/aoti_runtime/interface.h) needs neither.
"""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_POINTER_IN, _CAPSULE_OF = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
_POINTER_IN.argtypes, _POINTER_IN.restype = (ctypes.py_object, c_char_p), c_void_p
_CAPSULE_OF.argtypes, _CAPSULE_OF.restype = (c_void_p, c_char_p, c_void_p), ctypes.py_object


class Library:
    """A program with one tensor as its result. One thread at a time runs it."""

    def __init__(self, path: Path) -> None:
        """Loads the library for good: its file may go.

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
        """The result for these inputs, as many and of such shapes as the program was made for.

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
