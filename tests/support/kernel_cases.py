"""Networks that have kernels, each with an episode in double precision to hold readings and writings to."""

from dataclasses import replace

import torch
from tests.support.episodes import draw, error
from tests.support.network_cases import Case, bilinear_energy, quadratic_energy, waves_energy
from torch import Tensor

from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.reader import Reading

CASE = Case(Quadratic(inputs=48, features=32), quadratic_energy, 48)
CASES = {
    "quadratic": CASE,
    "bilinear": Case(Bilinear(inputs=48, keys=32, values=37), bilinear_energy, 48),
    "entrywise": Case(Bilinear(inputs=48, keys=32, values=27, entrywise=True), bilinear_energy, 48),
    "half sines": Case(Bilinear(inputs=48, keys=32, values=37, waves=16, bounded=True), waves_energy(16), 48),
    "all sines": Case(
        Bilinear(inputs=48, keys=32, values=27, entrywise=True, waves=32, bounded=True), waves_energy(32), 48
    ),
}
PARTS = ("pattern", "energy_before", "energy_after", "delta_energy")


def episode(pages: int, n: int, *, case: Case = CASE, symmetric: bool = False) -> tuple[Parameters, Tensors, Tensor]:
    """Parameters, fast weights as one write leaves them, and cues (pages, n, d); float64."""
    present, stored = torch.ones(pages, 2, dtype=torch.bool), torch.arange(pages)
    drawn = draw(case, present=present, stored=stored, cues=n)
    drawn = replace(drawn, held={name: torch.zeros_like(value) for name, value in drawn.held.items()})
    if symmetric:
        initial = drawn.parameters.initial
        initial = {**initial, "W": initial["W"] + initial["W"].mT}
        drawn = replace(drawn, parameters=replace(drawn.parameters, initial=initial))
    return drawn.parameters, drawn.write(case.network), drawn.cue


def single(parameters: Parameters) -> Parameters:
    return Parameters.of({name: value.float() for name, value in parameters.flat().items()})


def floats(fast: Tensors) -> Tensors:
    return {name: value.float() for name, value in fast.items()}


def worst(found: Reading, wanted: Reading) -> float:
    return max(error(getattr(found, part).double(), getattr(wanted, part)) for part in PARTS)
