"""Where meta-training starts from: features along the principal components of the data."""

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.training.recipe import NetworkTable

POWER = 0.5
SPREAD = 1.0
"""Standard deviation of the leading feature before tanh; the others are raised towards it by half"""


def initial_parameters(patterns: Tensor, table: NetworkTable) -> tuple[Quadratic, Parameters]:
    """A network whose features are the centred principal components of the patterns (n, d).

    Random features learn a denoiser that never looks at its memory; these do not.
    """
    network = Quadratic(inputs=patterns.shape[1], features=table.features)
    mean = patterns.mean(0)
    _, values, components = torch.linalg.svd(patterns - mean, full_matrices=False)
    deviation = values[: table.features] / len(patterns) ** 0.5
    scale = SPREAD / (deviation[0] ** (1 - POWER) * deviation**POWER)
    a = components[: table.features].T * scale
    slow = {"A": a, "a0": -mean @ a, "log_q": torch.zeros(network.inputs), "qb": -mean}
    h = network.features
    initial = {"W": torch.zeros(h, h), "b": torch.zeros(h)}
    reader, writer = _loops(table, initial)
    return network, Parameters(slow=slow, initial=initial, reader=reader, writer=writer)


def _loops(table: NetworkTable, initial: Tensors) -> tuple[Tensors, Tensors]:
    """Loops with the values that short runs came to: they would have to wait for them, and the features with them.

    A step that grows with the patterns in a chunk stands for the sum over them, which is what the energy has to gain.
    """
    reader = {**initial_reader(table.reading_steps), "log_step": torch.full((table.reading_steps,), 0.2).log()}
    writer = initial_writer(table.writing_steps, initial)
    for name, value in (("log_rate.W", 0.45), ("log_rate.b", 0.1), ("log_alpha", 1.6), ("log_clip", 6.0)):
        writer[name] = torch.full_like(writer[name], value).log()
    counts = {"rate_count": 1.25, "rate_stored": 0.45, "alpha_count": 0.7}
    return reader, {**writer, **{name: torch.tensor(value) for name, value in counts.items()}}
