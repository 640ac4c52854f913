"""The reading loop's learned numbers, as numbers."""

from dataclasses import dataclass

from attractor_server.energy.networks.protocol import Tensors


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Size, momentum and weight of the proximity term of each step; steps beyond those trained repeat the last."""

    sizes: list[float]
    momenta: list[float]
    proximities: list[float] | None
    """None where the model has no such term"""

    @classmethod
    def of(cls, reader: Tensors) -> "Schedule":
        """As numbers, which cost no operation of their own."""
        sizes = reader["log_step"].exp().tolist()
        return cls(
            sizes=sizes,
            momenta=reader["momentum_logit"].sigmoid().tolist() if "momentum_logit" in reader else [0.0] * len(sizes),
            proximities=reader["log_proximity"].exp().tolist() if "log_proximity" in reader else None,
        )

    def at(self, step: int) -> tuple[float, float, float | None]:
        """Size, momentum and proximity of a step from 0 on."""
        k = min(step, len(self.sizes) - 1)
        return self.sizes[k], self.momenta[k], None if self.proximities is None else self.proximities[k]
