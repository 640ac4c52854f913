"""Each part of the loops that a model may do without: what it is for, and that without its tensor it is off."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from tests.support.episodes import READING_STEPS, WRITING_STEPS, Episode, draw, error, errors
from tests.support.network_cases import SMALL, Case
from torch import Tensor
from torch.func import grad, vmap

from attractor_server.energy.networks.protocol import Tensors, gradients_of
from attractor_server.energy.parameters import TERMS, Parameters
from attractor_server.energy.reader import clip_pattern, descend
from attractor_server.energy.transform import Pull, Transform, Whitening

MLP = SMALL["mlp"]
NOTHING = -1e3
"""A logarithm of 0"""
every_term = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())
every_case = pytest.mark.parametrize("case", SMALL.values(), ids=SMALL.keys())


def learned(episode: Episode, changes: Mapping[str, Tensor | None]) -> Episode:
    """The same episode with other parameters, by `part.name`; None leaves one out."""
    flat = {**episode.parameters.flat(), **changes}
    parameters = Parameters.of({name: value for name, value in flat.items() if value is not None})
    return replace(episode, parameters=parameters)


def iterates(case: Case, episode: Episode, *, pull: Pull | None = None) -> Tensor:
    path = descend(case.network, episode.parameters, episode.fast, episode.cue, pull=pull, steps=READING_STEPS)
    return torch.stack(path)


# Reading


@every_case
def test_without_momentum_each_step_goes_down_the_slope_and_remembers_nothing(case: Case) -> None:
    episode = draw(case)
    plain = learned(episode, {"reader.momentum_logit": None})
    x, gradients = episode.cue, gradients_of(case.network)
    for k in range(READING_STEPS):
        slope = gradients.input_gradient(episode.parameters.slow, episode.fast, x)
        x = x - episode.parameters.reader["log_step"][k].exp() * clip_pattern(slope)
    assert error(iterates(case, plain)[-1], x) < 1e-12
    assert error(iterates(case, episode)[-1], x) > 1e-3
    still = learned(episode, {"reader.momentum_logit": torch.full((READING_STEPS,), NOTHING, dtype=torch.float64)})
    assert torch.equal(iterates(case, still), iterates(case, plain))


def pulling(episode: Episode, *, whitened: bool) -> tuple[Pull, Callable[[Tensor], Tensor]]:
    """A pull towards random values that are partly known, and how far x is from these, squared and halved."""
    size = episode.cue.shape[-1]
    values, known = episode.cue + 1, episode.known
    orthonormal = torch.linalg.qr(episode.patterns[0].T @ episode.patterns[0] + torch.eye(size)).Q
    whitening = Whitening(components=orthonormal, spread=torch.linspace(0.5, 2, size, dtype=torch.float64))
    transform = Transform(
        scale=torch.linspace(1, 2, size, dtype=torch.float64),
        shift=torch.linspace(-1, 1, size, dtype=torch.float64),
        whitening=whitening if whitened else None,
    )

    def gap(x: Tensor) -> Tensor:
        return 0.5 * ((transform.decode(x) - values) * transform.scale * known).square().sum()

    return transform.pull(values, known), gap


@pytest.mark.parametrize("whitened", [False, True])
def test_what_proximity_descends_is_half_the_squared_distance_from_what_is_known(whitened: bool) -> None:
    episode = draw(MLP)
    pull, gap = pulling(episode, whitened=whitened)
    assert error(pull(episode.cue), grad(gap)(episode.cue)) < 1e-12


@every_case
@pytest.mark.parametrize("whitened", [False, True])
def test_the_larger_its_weight_the_nearer_proximity_keeps_what_is_known(case: Case, whitened: bool) -> None:
    episode = draw(case)
    pull, gap = pulling(episode, whitened=whitened)

    def left(weight: float) -> float:
        schedule = torch.full((READING_STEPS,), weight, dtype=torch.float64).log()
        pulled = learned(episode, {"reader.log_proximity": schedule})
        return float(gap(iterates(case, pulled, pull=pull)[-1]))

    free = float(gap(iterates(case, episode)[-1]))
    assert free > left(0.1) > left(0.3) > left(0.6)


@every_case
def test_proximity_takes_both_a_learned_weight_and_something_known(case: Case) -> None:
    episode = draw(case)
    pull, _ = pulling(episode, whitened=False)
    weighty = learned(episode, {"reader.log_proximity": torch.zeros(READING_STEPS, dtype=torch.float64)})
    free = iterates(case, episode)
    assert torch.equal(iterates(case, episode, pull=pull), free)
    assert torch.equal(iterates(case, weighty), free)
    assert not torch.equal(iterates(case, weighty, pull=pull)[1:], free[1:])


# Writing


def energy(case: Case, episode: Episode, fast: Tensors) -> Tensor:
    return case.network.energy(episode.parameters.slow, fast, episode.patterns)


def slope(case: Case, episode: Episode, fast: Tensors) -> Tensor:
    """‖∇ₓE‖²"""
    gradients = gradients_of(case.network)
    return gradients.input_gradient(episode.parameters.slow, fast, episode.patterns).square().sum(-1)


def parameter_slope(case: Case, episode: Episode, fast: Tensors) -> Tensor:
    """‖∇_θE‖², from the oracle."""

    def of_pattern(own: Tensors, x: Tensor) -> Tensor:
        found = grad(lambda own: case.oracle(episode.parameters.slow, own, x))(own)
        return torch.stack([one.square().sum() for one in found.values()]).sum()

    slopes: Tensor = vmap(vmap(of_pattern, (None, 0)))(fast, episode.patterns)
    return slopes


def distance(case: Case, episode: Episode, fast: Tensors) -> Tensor:
    """‖θ − θ₀‖² of each memory, the same for each of its patterns."""
    initial = episode.parameters.initial
    gaps = torch.stack([(value - initial[name]).flatten(1).square().sum(1) for name, value in fast.items()]).sum(0)
    return gaps[:, None].expand(episode.present.shape)


LOWERED = {"log_energy": energy, "log_alpha": slope, "log_gamma": parameter_slope, "log_beta": distance}


@every_term
@pytest.mark.parametrize("name", ["mlp", "perceptron by autodiff"])
def test_a_term_by_itself_lowers_what_it_is_named_for(name: str, term: str) -> None:
    case = SMALL[name]
    only = {f"writer.{other}": None for other in TERMS.values() if other != term}
    slowly = {f"writer.log_rate.{tensor}": torch.full((WRITING_STEPS,), -5.0) for tensor in case.network.shapes[1]}
    episode = learned(draw(case), {**only, **slowly})

    def mean(fast: Tensors) -> Tensor:
        found = LOWERED[term](case, episode, fast)
        return torch.where(episode.present, found, 0).sum(1) / episode.present.sum(1)

    before, after = mean(episode.fast), mean(episode.write(case.network))
    assert (after < before).all()


@every_term
@every_case
def test_a_term_without_its_tensor_weighs_nothing(case: Case, term: str) -> None:
    none = torch.full((WRITING_STEPS,), NOTHING, dtype=torch.float64)
    episode = draw(case)
    absent, nought = (learned(episode, {f"writer.{term}": weight}) for weight in (None, none))
    without = absent.write(case.network)
    assert max(errors(nought.write(case.network), without).values()) < 1e-12
    heavy = learned(episode, {f"writer.{term}": torch.zeros(WRITING_STEPS, dtype=torch.float64)}).write(case.network)
    blind = term == "log_gamma" and not case.curved
    changed = [name for name in without if error(heavy[name], without[name]) > 1e-6]
    assert changed == ([] if blind else list(without))


def test_with_no_term_nothing_is_written() -> None:
    episode = learned(draw(MLP), {f"writer.{term}": None for term in TERMS.values()})
    assert all(torch.equal(value, episode.fast[name]) for name, value in episode.write(MLP.network).items())


def test_the_distance_from_the_initial_weights_leaves_these_where_they_are() -> None:
    absent = {f"writer.{term}": None for term in TERMS.values() if term != "log_beta"}
    episode = learned(draw(MLP), absent)
    episode = replace(episode, held={name: torch.zeros_like(value) for name, value in episode.held.items()})
    assert all(torch.equal(value, episode.fast[name]) for name, value in episode.write(MLP.network).items())
