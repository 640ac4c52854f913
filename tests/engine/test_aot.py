"""Compiled programs are read through where they are the faster way, and for nothing else."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import torch
from tests.support.episodes import Episode, draw, error
from tests.support.model_files import tiny
from tests.support.network_cases import SMALL, Case
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.convolutional import Convolutional
from attractor_server.engine.background_compile import limit_of
from attractor_server.engine.compute import aot
from attractor_server.engine.compute.aot import PROGRAMS, Compiled
from attractor_server.engine.compute.aot_compiler import functions, gains, trace
from attractor_server.engine.compute.dispatch import compute_energies, read_pages, recognize_pages, write_pages

CASE = SMALL["mlp"]
NEAR = 1e-5


class Watched:
    """The programs of a network as its own functions, and what they were called with."""

    def __init__(self, case: Case) -> None:
        self._shapes = case.network.shapes
        self._functions = functions(case.network)
        self.calls: list[tuple[str, Sequence[Tensor]]] = []

    @property
    def programs(self) -> Mapping[str, aot.Program]:
        return {name: partial(self._run, name) for name in PROGRAMS}

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def _run(self, name: str, tensors: list[Tensor]) -> Tensor:
        self.calls.append((name, tensors))
        shared, own = self._shapes
        weights = dict(zip((*shared, *own), tensors[:-1], strict=True))
        slow, fast = ({key: weights[key] for key in part} for part in (shared, own))
        return self._functions[name](slow, fast, tensors[-1])


@pytest.fixture(autouse=True)
def compiled_for_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "_COMPILED", {})


def adopted(case: Case, *, limit: float = math.inf) -> Watched:
    watched = Watched(case)
    aot.adopt(case.network, Compiled(case.network, watched.programs, limit=limit))
    return watched


def single(case: Case) -> tuple[Episode, Model]:
    episode = draw(case).to(torch.float32)
    return episode, tiny(network=case.network, parameters=episode.parameters)


def test_reading_goes_through_them_and_writing_does_not() -> None:
    episode, model = single(CASE)
    plain = read_pages(model, episode.fast, episode.cue), recognize_pages(model, episode.fast, episode.cue)
    fast = write_pages(model, episode.fast, episode.patterns, present=episode.present, stored=episode.stored)
    watched = adopted(CASE)
    assert error(read_pages(model, episode.fast, episode.cue).pattern, plain[0].pattern) < NEAR
    assert watched.names().count("input_gradient") == model.steps
    assert watched.names().count("energy") == 3
    watched.calls.clear()
    found = recognize_pages(model, episode.fast, episode.cue)
    assert all(error(one, other) < NEAR for one, other in zip(found, plain[1], strict=True))
    assert torch.equal(compute_energies(model, episode.fast, episode.cue), found[0])
    assert set(watched.names()) == {"energy"}
    watched.calls.clear()
    again = write_pages(model, episode.fast, episode.patterns, present=episode.present, stored=episode.stored)
    assert all(torch.equal(again[name], value) for name, value in fast.items())
    assert not watched.calls


def test_a_network_that_is_equal_has_the_same_programs() -> None:
    episode, model = single(CASE)
    watched = adopted(Case(type(CASE.network)(**CASE.network.__dict__), CASE.oracle, CASE.inputs))
    read_pages(model, episode.fast, episode.cue)
    assert watched.calls


def test_double_precision_and_batches_in_which_they_lose_go_past_them() -> None:
    episode, model = single(CASE)
    patterns = episode.cue.shape[0] * episode.cue.shape[1]
    watched = adopted(CASE, limit=patterns - 1)
    read_pages(model, episode.fast, episode.cue)
    assert not watched.calls
    watched = adopted(CASE)
    double = draw(CASE)
    read_pages(tiny(network=CASE.network, parameters=double.parameters), double.fast, double.cue)
    assert not watched.calls
    read_pages(model, episode.fast, episode.cue)
    assert watched.calls


def test_what_they_are_given_is_contiguous() -> None:
    episode, model = single(CASE)
    watched = adopted(CASE)
    crooked = {name: value.mT.contiguous().mT if value.dim() > 2 else value for name, value in episode.fast.items()}
    assert not all(value.is_contiguous() for value in crooked.values())
    cue = episode.cue.transpose(0, 1).contiguous().transpose(0, 1)
    found, wanted = read_pages(model, crooked, cue), read_pages(model, episode.fast, episode.cue)
    assert error(found.pattern, wanted.pattern) < NEAR
    assert all(tensor.is_contiguous() for _, tensors in watched.calls for tensor in tensors)


PLAIN = Convolutional(inputs=4, image=(1, 3, 2), channels=2, blocks=0, keys=3, values=4)


@pytest.mark.parametrize(
    ("network", "name"), [(PLAIN, "input_gradient"), (SMALL["recurrent"].network, "energy")], ids=["gradient", "energy"]
)
def test_one_program_is_traced_for_any_number_of_memories_and_patterns(network: EnergyNetwork, name: str) -> None:
    """Those of a perceptron are compiled as well, in `test_background_compile.py`."""
    function = functions(network)[name]
    with torch.no_grad():
        program = trace(network, function).module()
        for memories, patterns in ((1, 1), (7, 1), (1, 6), (4, 3)):
            slow, fast, x = some(network, memories, patterns)
            assert error(program(*slow.values(), *fast.values(), x), function(slow, fast, x)) < NEAR


def some(network: EnergyNetwork, memories: int, patterns: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    slow, fast = network.shapes
    return (
        {name: torch.randn(shape) for name, shape in slow.items()},
        {name: torch.randn(memories, *shape) for name, shape in fast.items()},
        torch.randn(memories, patterns, CASE.inputs),
    )


def test_programs_that_compute_something_else_are_refused() -> None:
    programs = Watched(CASE).programs
    assert [patterns for patterns, _ in gains(CASE.network, programs)] == [1, 16, 32, 128]
    wrong = {**programs, "energy": lambda tensors: programs["energy"](tensors) * 1.001}
    with pytest.raises(ValueError, match="the compiled energy of 1 × 1 patterns is not that of the network"):
        gains(CASE.network, wrong)


def test_they_are_used_for_batches_up_to_the_first_in_which_they_lose() -> None:
    assert limit_of([(1, 9.0), (16, 3.0), (128, 1.2)]) == math.inf
    assert limit_of([(1, 9.0), (16, 3.0), (128, 0.9)]) == 16
    assert limit_of([(1, 0.9), (16, 3.0), (128, 2.0)]) == 0
