"""The engine's programs against the reference, which knows one memory and one pattern at a time."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.support.episodes import PRESENT, Episode, draw, error, expected
from tests.support.model_files import tiny
from tests.support.network_cases import SMALL, WIDE, Case, Generic, waves_energy
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading, read
from attractor_server.energy.transform import Transform
from attractor_server.energy.writer import delta_energy, write
from attractor_server.engine.compute.bilinear import BilinearForm
from attractor_server.engine.compute.dispatch import compute_energies, read_pages, recognize_pages, write_pages
from attractor_server.engine.compute.registry import make_closed_form

CLOSED = ("quadratic in closed form", "bilinear in closed form")
closed = pytest.mark.parametrize("case", [SMALL[name] for name in CLOSED], ids=CLOSED)
wide = pytest.mark.parametrize("case", [WIDE[name] for name in CLOSED], ids=CLOSED)
every = pytest.mark.parametrize("case", SMALL.values(), ids=SMALL.keys())
EXACT = 1e-11
PARTS = ("pattern", "energy_before", "energy_after", "delta_energy")


def model_of(case: Case, episode: Episode) -> Model:
    return tiny(network=case.network, parameters=episode.parameters)


def from_empty(episode: Episode) -> Episode:
    """The episode in memories that hold nothing yet: the weights that writing makes begin there."""
    return replace(episode, held={name: torch.zeros_like(value) for name, value in episode.held.items()})


def written(model: Model, episode: Episode) -> Tensors:
    return write_pages(model, episode.fast, episode.patterns, present=episode.present, stored=episode.stored)


def held_by(case: Case, episode: Episode) -> Tensors:
    """Weights that the plain loop has written."""
    return episode.write(case.network)


def worst(found: Reading, wanted: Reading) -> float:
    return max(error(getattr(found, part), getattr(wanted, part)) for part in PARTS)


def with_proximity(model: Model, case: Case) -> Model:
    reader = {**model.parameters.reader, "log_proximity": torch.tensor([0.3, -0.4, 0.1]).to(torch.float64)}
    scale, shift = torch.linspace(0.5, 2, case.inputs), torch.linspace(-1, 1, case.inputs)
    transform = Transform(scale=scale.double(), shift=shift.double())
    return replace(model, parameters=replace(model.parameters, reader=reader), transform=transform)


@every
@pytest.mark.parametrize("seed", range(3))
def test_writing_and_reading_equal_the_reference(case: Case, seed: int) -> None:
    episode = from_empty(draw(case, seed=seed))
    episode = replace(episode, known=torch.zeros_like(episode.known))
    model, wanted = model_of(case, episode), expected(case.looped, episode)
    fast = written(model, episode)
    assert max(error(fast[name], wanted.fast[name]) for name in fast) < EXACT
    for steps in (1, 3, 5):
        found = read_pages(model, fast, episode.cue, steps=steps)
        assert error(found.pattern, wanted.iterates[:, steps]) < EXACT
        assert error(found.energy_before, wanted.energies[:, 0]) < EXACT
        assert error(found.energy_after, wanted.energies[:, steps]) < EXACT
        assert error(found.delta_energy, wanted.delta) < EXACT


@wide
def test_single_precision_is_as_near_as_is_promised(case: Case) -> None:
    episode = from_empty(draw(case))
    single = episode.to(torch.float32)
    fast, wanted = written(model_of(case, single), single), held_by(case, episode)
    assert max(error(fast[name].double(), wanted[name]) for name in fast) < 1e-5
    found, right = (
        read_pages(model_of(case, one), weights, one.cue, steps=5)
        for one, weights in ((single, fast), (episode, wanted))
    )
    assert found.pattern.dtype == torch.float32
    assert max(error(getattr(found, part).double(), getattr(right, part)) for part in PARTS) < 1e-5


@closed
def test_later_writes_go_on_from_what_is_there(case: Case) -> None:
    episode = from_empty(draw(case))
    model, first = model_of(case, episode), held_by(case, episode)
    more = draw(case, seed=8).patterns
    found = write_pages(model, first, more, present=~PRESENT, stored=episode.stored + 3)
    wanted = write(case.network, model.parameters, first, more, present=~PRESENT, stored=episode.stored + 3)
    assert max(error(found[name], wanted[name]) for name in wanted) < EXACT


@closed
@pytest.mark.parametrize("off", [("log_energy",), ("log_alpha",), ("log_beta",), ("log_energy", "log_alpha"), ()])
def test_a_term_that_is_off_is_off_in_closed_form_too(case: Case, off: tuple[str, ...]) -> None:
    episode = from_empty(draw(case))
    writer = {name: value for name, value in episode.parameters.writer.items() if name not in off}
    episode = replace(episode, parameters=replace(episode.parameters, writer=writer))
    found, wanted = written(model_of(case, episode), episode), held_by(case, episode)
    assert max(error(found[name], wanted[name]) for name in wanted) < EXACT


@closed
def test_a_reader_without_momentum_descends_plainly(case: Case) -> None:
    episode = from_empty(draw(case))
    reader = {"log_step": episode.parameters.reader["log_step"]}
    episode = replace(episode, parameters=replace(episode.parameters, reader=reader))
    model, fast = model_of(case, episode), held_by(case, episode)
    assert worst(read_pages(model, fast, episode.cue), read(case.network, model.parameters, fast, episode.cue)) < EXACT


@every
@pytest.mark.parametrize("way", ["hold", "pull"])
def test_known_values_are_held_or_pulled_as_in_the_plain_loop(case: Case, way: str) -> None:
    episode = from_empty(draw(case))
    model, fast = with_proximity(model_of(case, episode), case), held_by(case, episode)
    transform, values = model.transform, draw(case, seed=5).cue
    hold = transform.hold(values, episode.known) if way == "hold" else None
    pull = transform.pull(values, episode.known) if way == "pull" else None
    found = read_pages(model, fast, episode.cue, hold=hold, pull=pull, steps=4)
    wanted = read(case.network, model.parameters, fast, episode.cue, hold=hold, pull=pull, steps=4)
    assert worst(found, wanted) < EXACT
    assert error(found.pattern, read_pages(model, fast, episode.cue, steps=4).pattern) > 1e-3


@every
def test_recognizing_gives_the_energy_and_how_far_it_lies_below_that_of_an_empty_memory(case: Case) -> None:
    episode = from_empty(draw(case))
    model, fast = model_of(case, episode), held_by(case, episode)
    energy, gap = recognize_pages(model, fast, episode.cue)
    wanted = case.network.energy(model.parameters.slow, fast, episode.cue)
    assert error(energy, wanted) < EXACT
    assert error(compute_energies(model, fast, episode.cue), wanted) < EXACT
    assert error(gap, delta_energy(case.network, model.parameters, fast, episode.cue)) < EXACT


@every
def test_every_iterate_is_given_where_it_is_asked_for(case: Case) -> None:
    episode = from_empty(draw(case))
    model, fast = model_of(case, episode), held_by(case, episode)
    found = read_pages(model, fast, episode.cue, steps=4, trajectory=True)
    assert found.iterates is not None
    assert found.energies is not None
    assert torch.equal(found.iterates[0], episode.cue)
    assert error(found.iterates[-1], read_pages(model, fast, episode.cue, steps=4).pattern) < EXACT
    assert error(found.energies[-1], found.energy_after) < EXACT


def many(case: Case, pages: int) -> tuple[Model, Tensors, Tensor]:
    """More pages than one chunk takes, with a cue for each."""
    present = torch.ones(pages, 2, dtype=torch.bool)
    episode = from_empty(draw(case, present=present, stored=torch.zeros(pages, dtype=torch.long))).to(torch.float32)
    return model_of(case, episode), held_by(case, episode), episode.cue


@wide
def test_more_pages_than_the_cache_holds_are_read_and_written_as_few_are(case: Case) -> None:
    model, fast, cues = many(case, 1100)
    found = read_pages(model, fast, cues)
    assert worst(found, read(case.network, model.parameters, fast, cues)) < 1e-5
    present, stored = torch.ones(1100, 2, dtype=torch.bool), torch.arange(1100) % 7
    more = write_pages(model, fast, cues, present=present, stored=stored)
    wanted = write(case.network, model.parameters, fast, cues, present=present, stored=stored)
    assert max(error(more[name], wanted[name]) for name in more) < 1e-5
    energy, gap = recognize_pages(model, fast, cues)
    assert torch.equal(energy, found.energy_before)
    assert torch.equal(gap, found.delta_energy)


@wide
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_others_hold_and_ask_never_changes_a_bit(case: Case, bad: float) -> None:
    episode = from_empty(draw(case)).to(torch.float32)
    model, fast = model_of(case, episode), held_by(case, episode)

    def spoiled(value: Tensor) -> Tensor:
        value = value.clone()
        value[1:] = bad
        return value

    def outcomes(weights: Tensors, cue: Tensor, patterns: Tensor) -> list[Tensor]:
        read = read_pages(model, weights, cue)
        more = write_pages(model, weights, patterns, present=episode.present, stored=episode.stored)
        return [*(getattr(read, part)[0] for part in PARTS), *(value[0] for value in more.values())]

    wanted = outcomes(fast, episode.cue, episode.patterns)
    assert all(value.isfinite().all() for value in wanted)
    for found in (
        outcomes({name: spoiled(value) for name, value in fast.items()}, episode.cue, episode.patterns),
        outcomes(fast, spoiled(episode.cue), spoiled(episode.patterns)),
    ):
        assert [torch.equal(one, other) for one, other in zip(found, wanted, strict=True)] == [True] * len(wanted)


@wide
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_stands_in_the_place_of_an_absent_pattern_never_changes_a_bit(case: Case, bad: float) -> None:
    episode = from_empty(draw(case)).to(torch.float32)
    model = model_of(case, episode)
    padded = replace(episode, patterns=torch.where(episode.present[..., None], episode.patterns, bad))
    found, wanted = written(model, padded), written(model, episode)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@wide
def test_a_memory_that_writes_nothing_keeps_its_weights_bit_by_bit(case: Case) -> None:
    episode = from_empty(draw(case, present=PRESENT & torch.tensor([[False], [True], [True], [True]])))
    episode = episode.to(torch.float32)
    for name, value in written(model_of(case, episode), episode).items():
        assert torch.equal(value[0], episode.parameters.initial[name])


@every
def test_what_is_given_stays_as_it_is(case: Case) -> None:
    episode = from_empty(draw(case))
    model, fast = model_of(case, episode), held_by(case, episode)
    given = [*fast.values(), episode.cue, episode.patterns]
    copies = [tensor.clone() for tensor in given]
    first = read_pages(model, fast, episode.cue)
    write_pages(model, fast, episode.patterns, present=episode.present, stored=episode.stored)
    again = read_pages(model, fast, episode.cue)
    assert all(torch.equal(one, other) for one, other in zip(given, copies, strict=True))
    assert all(torch.equal(getattr(first, part), getattr(again, part)) for part in PARTS)


@closed
def test_weights_kept_in_half_the_bytes_give_what_their_values_give(case: Case) -> None:
    episode = from_empty(draw(case)).to(torch.float32)
    model = model_of(case, episode)
    kept = {name: value.to(torch.bfloat16) for name, value in held_by(case, episode).items()}
    same = {name: value.float() for name, value in kept.items()}
    asks: list[Callable[[Tensors], Tensor]] = [
        lambda fast: read_pages(model, fast, episode.cue).pattern,
        lambda fast: recognize_pages(model, fast, episode.cue)[1],
        lambda fast: write_pages(model, fast, episode.patterns, present=episode.present, stored=episode.stored)["W"],
    ]
    assert all(torch.equal(ask(kept), ask(same)) for ask in asks)


def test_two_models_with_the_same_network_keep_their_own_numbers() -> None:
    case = SMALL[CLOSED[0]]
    one, other = from_empty(draw(case, seed=1)), from_empty(draw(case, seed=2))
    for episode in (one, other, one):
        model, fast = model_of(case, episode), held_by(case, episode)
        assert worst(read_pages(model, fast, one.cue), read(case.network, model.parameters, fast, one.cue)) < EXACT


def test_a_network_without_a_closed_form_goes_through_the_plain_loops() -> None:
    case = SMALL[CLOSED[0]]
    episode = from_empty(draw(case))
    model = tiny(network=Generic(case.network), parameters=episode.parameters)
    fast = written(model, episode)
    plain = read(Generic(case.network), model.parameters, fast, episode.cue)
    assert worst(read_pages(model, fast, episode.cue), plain) == 0


def test_a_setting_that_a_closed_form_does_not_know_leaves_the_network_as_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Bilinear(inputs=16, keys=16, values=16, waves=4)
    model = tiny(network=network, parameters=draw(Case(network, waves_energy(4), 16)).parameters)
    assert isinstance(make_closed_form(model), BilinearForm)
    monkeypatch.setattr(BilinearForm, "SETTINGS", BilinearForm.SETTINGS - {"waves"})
    assert make_closed_form(model) is None
