"""Kernels against the plain loops, which the reference holds: those in C, and one in Triton by its interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.support.episodes import error
from tests.support.kernel_cases import CASE, CASES, PARTS, episode, floats, single, worst
from tests.support.model_files import tiny
from tests.support.network_cases import Case, bilinear_energy, quadratic_energy
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.reader import read
from attractor_server.energy.writer import delta_energy
from attractor_server.engine.compute.cuda_graphs import COPIED_BYTES, GraphedReads
from attractor_server.engine.compute.dispatch import compute_path, read_pages
from attractor_server.engine.compute.native.kernels import HostKernel
from attractor_server.engine.compute.native.library import library

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
compiled = pytest.mark.skipif(library() is None, reason="no C compiler on this machine")


def kernel_of(parameters: Parameters, case: Case = CASE) -> HostKernel:
    way = compute_path(tiny(network=case.network, parameters=single(parameters)))
    assert way is not None
    assert isinstance(way.kernel, HostKernel)
    return way.kernel


@compiled
@every
@pytest.mark.parametrize(
    ("pages", "n"), [(1, 1), (13, 1), (7, 2), (5, 3), (1, 4), (13, 4), (5, 5), (4, 8), (3, 12), (2, 32)]
)
def test_kernels_in_c_read_as_the_plain_loop_does(case: Case, pages: int, n: int) -> None:
    parameters, fast, cues = episode(pages, n, case=case)
    kernel = kernel_of(parameters, case)
    for steps in (1, 3, 5):
        found = kernel.read(floats(fast), cues.float(), steps=steps)
        assert worst(found, read(case.network, parameters, fast, cues, steps=steps)) < 1e-5


@compiled
@pytest.mark.parametrize(("d", "h"), [(16, 16), (64, 16), (48, 80), (144, 128), (32, 208)])
def test_kernels_in_c_take_every_shape_in_sixteens(d: int, h: int) -> None:
    quadratic = Case(Quadratic(inputs=d, features=h), quadratic_energy, d)
    bilinear = Case(Bilinear(inputs=d, keys=h, values=2 * h - 3), bilinear_energy, d)
    entrywise = Case(Bilinear(inputs=d, keys=h, values=d - 3, entrywise=True), bilinear_energy, d)
    for case, n in ((quadratic, 1), (quadratic, 4), (bilinear, 1), (entrywise, 1)):
        parameters, fast, cues = episode(7, n, case=case, symmetric=n == 4)
        found = kernel_of(parameters, case).read(floats(fast), cues.float(), steps=3)
        assert worst(found, read(case.network, parameters, fast, cues, steps=3)) < 1e-5


@compiled
@every
@pytest.mark.parametrize("n", [1, 2, 4])
def test_pages_are_read_where_they_lie_with_the_bits_of_their_copies(case: Case, n: int) -> None:
    parameters, fast, cues = episode(9, n, case=case)
    kernel, fast, cues = kernel_of(parameters, case), floats(fast), cues.float()
    places = torch.tensor([4, 0, 8, 8, 2, 7])
    copied = {name: value.index_select(0, places) for name, value in fast.items()}
    there, apart = kernel.read_at(fast, places, cues[:6], steps=4), kernel.read(copied, cues[:6], steps=4)
    assert all(torch.equal(getattr(there, part), getattr(apart, part)) for part in PARTS)


@compiled
@every
@pytest.mark.parametrize("n", [1, 4, 6])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_row_has_the_same_bits_alone_and_whatever_its_neighbours_are(case: Case, n: int, bad: float) -> None:
    parameters, fast, cues = episode(9, n, case=case)
    kernel, fast, cues = kernel_of(parameters, case), floats(fast), cues.float()
    together = kernel.read(fast, cues, steps=5)
    for page in range(9):
        alone = kernel.read({name: value[page, None] for name, value in fast.items()}, cues[page, None], steps=5)
        assert all(torch.equal(getattr(alone, part)[0], getattr(together, part)[page]) for part in PARTS)
    others = torch.arange(9) != 4
    spoiled = {name: value.clone() for name, value in fast.items()}
    cue = cues.clone()
    cue[others] = bad
    for value in spoiled.values():
        value[others] = bad
    found = kernel.read(spoiled, cue, steps=5)
    assert all(torch.equal(getattr(found, part)[4], getattr(together, part)[4]) for part in PARTS)
    assert found.energy_after[4].isfinite().all()


@compiled
@every
@pytest.mark.parametrize("place", ["cue", "W", "b"])
def test_what_is_not_finite_shows(case: Case, place: str) -> None:
    parameters, fast, cues = episode(3, 1, case=case)
    fast, cues = floats(fast), cues.float()
    spoiled: Tensor = cues if place == "cue" else fast[place]
    spoiled[1].view(-1)[0] = float("nan")
    found = kernel_of(parameters, case).read(fast, cues, steps=2)
    assert found.energy_after.isfinite().flatten().tolist() == [True, False, True]
    assert not found.pattern[1].isfinite().all()


@compiled
def test_large_features_saturate_as_tanh_does() -> None:
    parameters, fast, cues = episode(4, 1)
    found = kernel_of(parameters).read(floats(fast), 1e3 * cues.float(), steps=1)
    assert worst(found, read(CASE.network, parameters, fast, 1e3 * cues, steps=1)) < 1e-5


def model_of(parameters: Parameters) -> Model:
    return tiny(network=CASE.network, parameters=single(parameters))


@compiled
def test_readings_in_single_precision_take_the_kernel_and_others_the_loop_on_tensors() -> None:
    parameters, fast, cues = episode(6, 2)
    model, own, cue = model_of(parameters), floats(fast), cues.float()
    kernel = kernel_of(parameters).read(own, cue, steps=3)
    assert torch.equal(read_pages(model, own, cue, steps=3).pattern, kernel.pattern)
    scattered = {name: torch.stack([value, value], 1)[:, 1] for name, value in own.items()}
    assert torch.equal(read_pages(model, scattered, cue, steps=3).pattern, kernel.pattern)
    held = read_pages(model, own, cue, hold=lambda x: x, steps=3)
    assert not torch.equal(held.pattern, kernel.pattern)
    assert worst(held, read(CASE.network, parameters, fast, cues, steps=3)) < 1e-5


def test_models_that_do_not_fit_have_no_kernel() -> None:
    parameters, _, _ = episode(1, 1)
    double = compute_path(tiny(network=CASE.network, parameters=parameters))
    odd = Case(Quadratic(inputs=40, features=24), quadratic_energy, 40)
    uneven = compute_path(tiny(network=odd.network, parameters=single(episode(1, 1, case=odd)[0])))
    assert double is not None
    assert double.kernel is None
    assert uneven is not None
    assert uneven.kernel is None


def test_graphs_are_for_small_batches_in_powers_of_two_on_cuda() -> None:
    parameters, _, _ = episode(1, 1)
    way = compute_path(model_of(parameters))
    assert way is not None
    graphs = GraphedReads(form=way.form, schedule=way.schedule, page_bytes=COPIED_BYTES // 8)
    assert not graphs.takes(torch.zeros(4, 1, 48)), "a CPU has none"
    assert graphs.captured == {}


TRITON = """
import torch
from torch import randn
from attractor_server.engine.compute.triton_bilinear import ROWS_LIMIT, pulls, takes

for pages, n, values, keys in (3, 1, 48, 32), (2, 2, 70, 24), (1, 5, 9, 80), (2, 8, 300, 16), (1, 1, 1, 1):
    w, b = randn(pages, values, keys), randn(pages, values)
    k, v = randn(pages, n, keys), randn(pages, n, values)
    recalled, pushed = pulls(w, b, k, v)
    wanted = torch.einsum("pvk,pnk->pnv", w.double(), k.double()) + b[:, None], torch.einsum("pnv,pvk->pnk", v, w)
    print(*(float((found - right).norm() / right.norm()) for found, right in zip((recalled, pushed), wanted)))
print(takes(randn(2, ROWS_LIMIT, 3)), takes(randn(2, ROWS_LIMIT + 1, 3)), takes(randn(2, 1, 3).double()))
"""


def test_the_kernel_in_triton_makes_both_products() -> None:
    """In a process of its own, since Triton decides at import whether it interprets."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", TRITON]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr
    *lines, last = run.stdout.splitlines()
    assert last == "True False False"
    errors = [float(number) for line in lines for number in line.split()]
    assert len(errors) == 10
    assert max(errors) < 1e-6


@compiled
@every
@pytest.mark.parametrize("n", [1, 4, 5])
def test_a_look_has_the_energies_of_a_reading_and_of_the_network(case: Case, n: int) -> None:
    parameters, fast, cues = episode(7, n, case=case)
    kernel, own, cue = kernel_of(parameters, case), floats(fast), cues.float()
    energy, gap = kernel.evaluate_at(own, None, cue)
    read_too = kernel.read(own, cue, steps=3)
    assert torch.equal(energy, read_too.energy_before)
    assert torch.equal(gap, read_too.delta_energy)
    assert error(energy.double(), case.network.energy(parameters.slow, fast, cues)) < 1e-5
    assert error(gap.double(), delta_energy(case.network, parameters, fast, cues)) < 1e-5
    places = torch.tensor([3, 0, 0, 6])
    there, apart = kernel.evaluate_at(own, places, cue[:4]), kernel.evaluate_at(floats(of(fast, places)), None, cue[:4])
    assert all(torch.equal(one, other) for one, other in zip(there, apart, strict=True))


def of(fast: Tensors, places: Tensor) -> Tensors:
    return {name: value.index_select(0, places) for name, value in fast.items()}
