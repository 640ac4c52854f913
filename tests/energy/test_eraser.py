"""The erasing loop: memory by memory, pattern by pattern, along each of its three directions."""

from dataclasses import replace

import pytest
import torch
from tests.support.episodes import PRESENT, Episode, draw, error, errors
from tests.support.network_cases import SMALL, Case
from torch import Generator, Tensor
from torch.func import grad

from attractor_server.energy.eraser import count_erasing_steps, erase, initial_eraser
from attractor_server.energy.networks.protocol import Tensors

every_case = pytest.mark.parametrize("case", SMALL.values(), ids=SMALL.keys())
STEPS = 3
TERMS = ("energy", "slope", "distance")


def erasing(case: Case, *, seed: int = 0) -> Episode:
    """A random episode with a random eraser."""
    episode, generator = draw(case, seed=seed), Generator().manual_seed(seed + 100)
    eraser = {
        name: value + 0.2 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in initial_eraser(STEPS, episode.held).items()
    }
    return replace(episode, parameters=replace(episode.parameters, eraser=eraser))


def learned(episode: Episode, changes: Tensors) -> Episode:
    """The same episode with some of the eraser's parameters changed."""
    eraser = {**episode.parameters.eraser, **changes}
    return replace(episode, parameters=replace(episode.parameters, eraser=eraser))


def only(episode: Episode, **weights: float) -> Episode:
    """The same episode, each term with this weight at each step of each tensor, or 0."""
    zeros = torch.zeros(STEPS, dtype=torch.float64)
    return learned(
        episode, {f"{term}.{name}": zeros + weights.get(term, 0.0) for term in TERMS for name in episode.held}
    )


def erased(case: Case, episode: Episode) -> Tensors:
    return erase(
        case.network,
        episode.parameters,
        episode.fast,
        episode.patterns,
        present=episode.present,
        stored=episode.stored,
    )


@every_case
def test_a_memory_batched_and_padded_is_as_it_is_alone(case: Case) -> None:
    episode = erasing(case)
    together = erased(case, episode)
    for memory in range(len(PRESENT)):
        alone = erased(case, episode.alone(memory))
        assert max(errors({name: value[memory, None] for name, value in together.items()}, alone).values()) < 1e-12
    assert all((value != episode.fast[name]).any() for name, value in together.items())


@every_case
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_stands_in_the_place_of_an_absent_pattern_never_changes_a_bit(case: Case, bad: float) -> None:
    episode = erasing(case)
    padded = replace(episode, patterns=torch.where(episode.present[..., None], episode.patterns, bad))
    found, wanted = erased(case, padded), erased(case, episode)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@every_case
def test_with_coefficients_of_zero_nothing_changes(case: Case) -> None:
    episode = only(erasing(case))
    assert all(torch.equal(value, episode.fast[name]) for name, value in erased(case, episode).items())


@every_case
def test_where_no_pattern_is_present_nothing_changes(case: Case) -> None:
    episode = replace(erasing(case), present=torch.zeros_like(PRESENT))
    assert all(torch.equal(value, episode.fast[name]) for name, value in erased(case, episode).items())


def by_hand(case: Case, episode: Episode, memory: int) -> Tensors:
    """The fast weights of one memory after erasing its patterns in turn, from its energies on paper."""
    fast = {name: value[memory] for name, value in episode.fast.items()}
    for number, x in enumerate(episode.patterns[memory, episode.present[memory]]):
        fast = without(case, episode, fast, x, max(0, int(episode.stored[memory]) - number))
    return fast


def without(case: Case, episode: Episode, fast: Tensors, x: Tensor, stored: int) -> Tensors:
    eraser, parameters = episode.parameters.eraser, episode.parameters
    scale = (1 + stored / 16) ** eraser["stored"] * 16 ** -eraser["count"]

    def clipped(gradient: Tensor) -> Tensor:
        return gradient / torch.sqrt(1 + gradient.square().sum() / eraser["log_clip"].exp() ** 2)

    def energy(fast: Tensors, x: Tensor) -> Tensor:
        return case.oracle(parameters.slow, fast, x)

    for s in range(STEPS):
        up = grad(energy)(fast, x)
        steep = grad(lambda fast: grad(lambda x: energy(fast, x))(x).square().sum())(fast)
        fast = {
            name: value
            - scale
            * (
                eraser[f"energy.{name}"][s] * clipped(up[name])
                + eraser[f"slope.{name}"][s] * clipped(steep[name])
                + eraser[f"distance.{name}"][s] * (value - parameters.initial[name])
            )
            for name, value in fast.items()
        }
    return fast


@every_case
def test_several_patterns_are_erased_as_they_would_be_one_after_another(case: Case) -> None:
    episode = erasing(case)
    whole, fast = erased(case, episode), episode.fast
    for number in range(episode.present.shape[1]):
        here = episode.present[:, number : number + 1]
        x, stored = episode.patterns[:, number : number + 1], episode.stored - episode.present[:, :number].sum(1)
        fast = erase(case.network, episode.parameters, fast, x, present=here, stored=stored)
    assert all(torch.equal(fast[name], whole[name]) for name in whole)


@every_case
def test_each_step_is_the_one_on_paper(case: Case) -> None:
    episode = erasing(case)
    found = erased(case, episode)
    for memory in range(len(PRESENT)):
        wanted = by_hand(case, episode, memory)
        assert max(errors({name: value[memory] for name, value in found.items()}, wanted).values()) < 1e-11


def test_a_whole_step_along_the_distance_brings_the_initial_weights_back() -> None:
    case = SMALL["bilinear in closed form"]
    plain = {name: torch.zeros((), dtype=torch.float64) for name in ("stored", "count")}
    episode = learned(only(erasing(case), distance=1.0), plain)
    for name, value in erased(case, episode).items():
        assert error(value, episode.parameters.initial[name].expand_as(value)) < 1e-12


@every_case
def test_every_coefficient_of_every_step_is_learned_from_what_comes_out(case: Case) -> None:
    episode = erasing(case)
    leaves = {name: value.clone().requires_grad_() for name, value in episode.parameters.eraser.items()}
    outcome = erased(case, learned(episode, leaves))
    loss = torch.stack([value.square().sum() for value in outcome.values()]).sum()
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    assert [name for name, gradient in found.items() if (gradient.abs() < 1e-9).any()] == []


def test_a_model_without_an_eraser_has_no_steps_of_it() -> None:
    case = SMALL["bilinear in closed form"]
    assert count_erasing_steps(draw(case).parameters) == 0
    assert count_erasing_steps(erasing(case).parameters) == STEPS


def test_erasing_starts_up_the_energy_of_what_is_erased() -> None:
    case = SMALL["bilinear in closed form"]
    episode = erasing(case)
    episode = learned(episode, initial_eraser(STEPS, episode.held))
    before, after = (
        case.network.energy(episode.parameters.slow, fast, episode.patterns)
        for fast in (episode.fast, erased(case, episode))
    )
    change = torch.where(episode.present, after - before, 0).sum(1)
    assert (change > 0).all()
