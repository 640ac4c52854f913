"""Networks without a closed form, through programs that were compiled for them beside the serving."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Autodiff, EnergyNetwork, Tensors, Terms
from attractor_server.engine.programs.library import Library

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
        """Programs know no strides but those of what is contiguous, and do not ask."""
        shared, own = self.shapes
        tensors = *(slow[name] for name in shared), *(fast[name] for name in own), x
        return self._programs[name]([tensor.contiguous() for tensor in tensors])


_COMPILED: dict[EnergyNetwork, Compiled] = {}
"""By networks, which are equal where their `kind` and `config` are"""


def adopt(network: EnergyNetwork, compiled: Compiled) -> None:
    """From now on models with that network are read through its programs."""
    _COMPILED[network] = compiled


def network_for(model: Model) -> EnergyNetwork:
    """The model's network, compiled where that has been done."""
    return _COMPILED.get(model.network, model.network) if _COMPILED else model.network


def load(folder: Path) -> Mapping[str, Program]:
    """The programs in that folder, which may go afterwards.

    Raises:
        OSError: one is missing, or cannot be loaded.
        RuntimeError: one cannot be made ready.
    """
    return {name: Library(folder / f"{name}{SUFFIX}") for name in PROGRAMS}
