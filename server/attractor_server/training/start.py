"""Where meta-training starts from: features along the principal components of the data."""

import torch
from torch import Tensor

from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.training.recipe import NetworkTable

POWER = 0.5
SPREAD = 0.5
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
    return network, Parameters(
        slow=slow,
        initial=initial,
        reader=initial_reader(table.reading_steps),
        writer=initial_writer(table.writing_steps, initial),
    )
