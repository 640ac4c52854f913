"""The writing loop in C against the plain one, which the reference holds."""

from dataclasses import replace

import pytest
import torch
from tests.support.episodes import Episode, draw, error
from tests.support.model_files import tiny
from tests.support.network_cases import Case, waves_energy
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.engine.compute.dispatch import compute_path, write_pages
from attractor_server.engine.compute.native.kernels import HostWritingKernel
from attractor_server.engine.compute.native.library import library

NETWORKS = {
    "matrix": Bilinear(inputs=48, keys=32, values=37),
    "entrywise": Bilinear(inputs=48, keys=16, values=27, entrywise=True),
    "as many values as entries": Bilinear(inputs=48, keys=64, values=48, entrywise=True),
    "half sines": Bilinear(inputs=48, keys=32, values=27, waves=16, bounded=True),
    "half sines, entrywise": Bilinear(inputs=48, keys=32, values=27, entrywise=True, waves=16, bounded=True),
    "few values": Bilinear(inputs=20, keys=16, values=3),
}
every = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler on this machine")


def episode(network: Bilinear, pages: int, n: int, *, off: tuple[str, ...] = ()) -> Episode:
    """Writes of up to n patterns a page, some of them absent, in pages that hold something; float64."""
    present = torch.rand(pages, n, generator=torch.Generator().manual_seed(n)) < 0.7
    present[:, 0] = True
    case = Case(network, waves_energy(network.waves), network.inputs)
    drawn = draw(case, present=present, stored=torch.arange(pages) * 5)
    held = {name: value - value.mean() for name, value in drawn.held.items()}
    writer = {name: value for name, value in drawn.parameters.writer.items() if name not in off}
    return replace(drawn, held=held, parameters=replace(drawn.parameters, writer=writer))


def model_of(one: Episode, network: Bilinear) -> Model:
    model = tiny(network=network, parameters=one.to(torch.float32).parameters)
    assert (way := compute_path(model)) is not None
    assert isinstance(way.writing, HostWritingKernel)
    return model


def written(model: Model, one: Episode) -> Tensors:
    single = one.to(torch.float32)
    return write_pages(model, single.fast, single.patterns, present=one.present, stored=one.stored)


def differs(found: Tensors, wanted: Tensors) -> float:
    return max(error(found[name].double(), wanted[name]) for name in wanted)


@every
@pytest.mark.parametrize("n", [1, 2, 5, 8, 13, 32])
def test_the_kernel_writes_as_the_plain_loop_does(network: Bilinear, n: int) -> None:
    one = episode(network, 3, n)
    assert differs(written(model_of(one, network), one), one.write(network)) < 1e-5


@every
@pytest.mark.parametrize("off", [("log_energy",), ("log_alpha",), ("log_beta",), ("log_energy", "log_alpha")])
def test_terms_that_are_off_are_off_in_the_kernel(network: Bilinear, off: tuple[str, ...]) -> None:
    one = episode(network, 3, 4, off=off)
    assert differs(written(model_of(one, network), one), one.write(network)) < 1e-5


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_page_has_the_same_bits_whatever_its_neighbours_are(network: Bilinear, bad: float) -> None:
    one = episode(network, 5, 7)
    model, together = model_of(one, network), written(model_of(one, network), one)
    others = torch.arange(5) != 3

    def spoiled(value: Tensor) -> Tensor:
        value = value.clone()
        value[others] = bad
        return value

    beside = replace(
        one, held={name: spoiled(value) for name, value in one.held.items()}, patterns=spoiled(one.patterns)
    )
    found = written(model, beside)
    assert all(torch.equal(found[name][3], together[name][3]) for name in together)


@every
def test_patterns_that_are_not_there_change_no_bit_however_many_places_they_have(network: Bilinear) -> None:
    one = episode(network, 3, 6)
    places = torch.full((3, 10, network.inputs), torch.nan, dtype=torch.float64)
    wider = replace(
        one,
        patterns=torch.cat([one.patterns, places], 1),
        present=torch.cat([one.present, torch.zeros(3, 10, dtype=torch.bool)], 1),
    )
    model = model_of(one, network)
    found, wanted = written(model, wider), written(model, one)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_double_precision_and_keys_that_do_not_fit_are_written_on_tensors() -> None:
    odd = Bilinear(inputs=20, keys=12, values=8)
    for network, dtype in ((odd, torch.float32), (NETWORKS["matrix"], torch.float64)):
        one = episode(network, 3, 4)
        way = compute_path(tiny(network=network, parameters=one.to(dtype).parameters))
        assert way is not None
        assert way.writing is None
