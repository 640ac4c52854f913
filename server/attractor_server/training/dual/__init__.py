"""Writing loops in their dual form: they carry what each pattern adds to the fast weights, not the fast weights.

They are exact, and several times as fast to train through where few patterns are written at a time.
`energy.writer.write` is the slow twin of all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters
from attractor_server.training.dual import bilinear, quadratic

Written: TypeAlias = tuple[EnergyNetwork, Tensors]
"""Fast weights, with the network that reads them"""


@dataclass(frozen=True, kw_only=True)
class Dual:
    """A network's writing loop in its dual form."""

    write: Callable[[Any, Parameters, Tensor, Sequence[int]], Written]
    """Of the network, its parameters, patterns (memories, n, d), and the sizes of the chunks they are written in"""
    settings: frozenset[str]
    """Settings of the network that it knows"""


DUALS: Mapping[type[EnergyNetwork], Dual] = {
    Quadratic: Dual(write=quadratic.write, settings=quadratic.SETTINGS),
    Bilinear: Dual(write=bilinear.write, settings=bilinear.SETTINGS),
}
"""By type of network"""


def find_dual(network: EnergyNetwork, parameters: Parameters) -> Dual | None:
    """Return the dual form; None where it does not know a setting of the network, or a term of the loop."""
    dual = DUALS.get(type(network))
    return None if dual is None or network.config.keys() - dual.settings or not _has_terms(parameters) else dual


def _has_terms(parameters: Parameters) -> bool:
    """Return whether the loop has the terms of the dual forms: energy, slope by the input, distance."""
    return {"log_energy", "log_alpha", "log_beta"} <= parameters.writer.keys() and "log_gamma" not in parameters.writer
