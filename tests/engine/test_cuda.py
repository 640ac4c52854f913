"""On a GPU, where there is one: kernels and graphs against the plain loops in double precision on the processor."""

from dataclasses import replace

import pytest
import torch
from tests.support.episodes import draw, error
from tests.support.kernel_cases import CASES, episode, floats, single, worst
from tests.support.model_files import tiny
from tests.support.network_cases import Case

from attractor_server.energy.model import Model
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.reader import Reading, read
from attractor_server.energy.writer import delta_energy, write
from attractor_server.engine.compute.dispatch import read_pages, recognize_pages, write_pages

CUDA = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def on_gpu(parameters: Parameters, case: Case) -> Model:
    return tiny(network=case.network, parameters=single(parameters)).to(CUDA)


def back(found: Reading) -> Reading:
    parts = (found.pattern, found.energy_before, found.energy_after, found.delta_energy)
    names = ("pattern", "energy_before", "energy_after", "delta_energy")
    return Reading(**{name: part.cpu() for name, part in zip(names, parts, strict=True)})


@every
@pytest.mark.parametrize(("pages", "n"), [(1, 1), (8, 1), (13, 1), (7, 3), (16, 8), (5, 20), (300, 2)])
def test_readings_are_those_of_the_plain_loop(case: Case, pages: int, n: int) -> None:
    parameters, fast, cues = episode(pages, n, case=case)
    model = on_gpu(parameters, case)
    there = {name: value.to(CUDA) for name, value in floats(fast).items()}
    for _ in range(2):  # the second time from a graph, where there is one
        found = read_pages(model, there, cues.float().to(CUDA), steps=4)
        assert worst(back(found), read(case.network, parameters, fast, cues, steps=4)) < 1e-5


@every
def test_energies_are_those_of_the_network(case: Case) -> None:
    parameters, fast, cues = episode(9, 3, case=case)
    there = {name: value.to(CUDA) for name, value in floats(fast).items()}
    energy, gap = recognize_pages(on_gpu(parameters, case), there, cues.float().to(CUDA))
    assert error(energy.cpu().double(), case.network.energy(parameters.slow, fast, cues)) < 1e-5
    assert error(gap.cpu().double(), delta_energy(case.network, parameters, fast, cues)) < 1e-5


@every
@pytest.mark.parametrize("n", [1, 5])
def test_writings_are_those_of_the_plain_loop(case: Case, n: int) -> None:
    present, stored = torch.ones(6, n, dtype=torch.bool), torch.arange(6)
    drawn = draw(case, present=present, stored=stored, cues=1)
    drawn = replace(drawn, held={name: torch.zeros_like(value) for name, value in drawn.held.items()})
    wanted = write(case.network, drawn.parameters, drawn.fast, drawn.patterns, present=present, stored=stored)
    there = {name: value.float().to(CUDA) for name, value in drawn.fast.items()}
    patterns = drawn.patterns.float().to(CUDA)
    model = on_gpu(drawn.parameters, case)
    found = write_pages(model, there, patterns, present=present.to(CUDA), stored=stored.to(CUDA))
    assert max(error(found[name].cpu().double(), wanted[name]) for name in wanted) < 1e-5
