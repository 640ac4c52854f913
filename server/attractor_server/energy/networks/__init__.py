"""Energy networks by kind. A network is one file here and one line in `NETWORKS`."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.convolutional import Convolutional
from attractor_server.energy.networks.mlp import MLP
from attractor_server.energy.networks.protocol import EnergyNetwork, Gradients, TrainableNetwork, WritableNetwork
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.networks.recurrent import Recurrent

__all__ = ["NETWORKS", "EnergyNetwork", "Gradients", "TrainableNetwork", "WritableNetwork", "network_of", "switches_of"]

NETWORKS: Mapping[str, Callable[..., TrainableNetwork]] = {
    "quadratic": Quadratic,
    "bilinear": Bilinear,
    "mlp": MLP,
    "convolutional": Convolutional,
    "recurrent": Recurrent,
}


def switches_of(kind: object) -> frozenset[str]:
    """Return the names of the settings of such a network that are true or false; other numbers are sizes."""
    if not isinstance(kind, str) or kind not in NETWORKS:
        return frozenset()
    settings = signature(NETWORKS[kind]).parameters.values()
    return frozenset(setting.name for setting in settings if setting.annotation is bool)


def network_of(config: Mapping[str, Any]) -> TrainableNetwork:
    """Make the network of such a `config` with its `kind`.

    Raises:
        KeyError: the kind is missing.
        ValueError: there is no such kind.
        TypeError: another entry is missing, or unknown.
    """
    entries = {name: tuple(value) if isinstance(value, list) else value for name, value in dict(config).items()}
    kind: Any = entries.pop("kind")
    if kind not in NETWORKS:
        raise ValueError(f"network kind {kind!r}; this version knows {', '.join(NETWORKS)}")
    return NETWORKS[kind](**entries)
