"""Energy networks by kind. A network is one file here and one line in `NETWORKS`."""

from collections.abc import Callable, Mapping

from attractor_server.energy.networks.protocol import EnergyNetwork, Gradients, WritableNetwork
from attractor_server.energy.networks.quadratic import Quadratic

__all__ = ["NETWORKS", "EnergyNetwork", "Gradients", "WritableNetwork"]

NETWORKS: Mapping[str, Callable[[Mapping[str, int]], EnergyNetwork]] = {
    "quadratic": lambda config: Quadratic(inputs=config["inputs"], features=config["features"]),
}
