"""What users of a memory rely on, whatever the numbers: what is known stays, what is stored attracts."""

import pytest
import torch
from tests.support.episodes import BEYOND, READING_STEPS, draw, error, outcome
from tests.support.network_cases import SMALL, WIDE, Case
from torch import Generator, Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.reader import Reading, clip_pattern, read
from attractor_server.energy.writer import delta_energy, write

every_case = pytest.mark.parametrize("case", WIDE.values(), ids=WIDE.keys())
D = 64
NETWORK = Quadratic(inputs=D, features=D)
PRESENT, EMPTY = torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)


def untrained() -> Parameters:
    """Where meta-training on binary patterns starts from: each entry is its own feature."""
    slow = {"A": torch.eye(D), "a0": torch.zeros(D), "log_q": torch.zeros(D), "qb": torch.zeros(D)}
    initial = {"W": torch.zeros(D, D), "b": torch.zeros(D)}
    return Parameters(slow=slow, initial=initial, reader=initial_reader(5), writer=initial_writer(5, initial))


def signs(seed: int = 0) -> Tensor:
    return torch.randint(2, (3, 4, D), generator=Generator().manual_seed(seed)) * 2.0 - 1


def written(patterns: Tensor) -> Tensors:
    parameters = untrained()
    fast = parameters.memories(len(patterns))
    return write(NETWORK, parameters, fast, patterns, present=PRESENT, stored=EMPTY)


def recalled(patterns: Tensor, *, steps: int = 0) -> Reading:
    """From cues of which the first fifth is wrong."""
    cue = torch.cat([-patterns[..., : D // 5], patterns[..., D // 5 :]], -1)
    return read(NETWORK, untrained(), written(patterns), cue, steps=steps, trajectory=True)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_entries_never_move(case: Case, dtype: torch.dtype) -> None:
    episode = draw(case).to(dtype)
    reading = episode.read(case.network, episode.write(case.network))
    assert reading.iterates is not None
    for iterate in reading.iterates:
        assert torch.equal(iterate[episode.known], episode.cue[episode.known])
    assert (reading.pattern != episode.cue)[~episode.known].all()


@every_case
def test_a_mask_that_knows_nothing_is_as_none_and_one_that_knows_all_leaves_the_cue(case: Case) -> None:
    episode = draw(case).to(torch.float32)
    parameters, fast, cue = episode.parameters, episode.fast, episode.cue
    free = read(case.network, parameters, fast, cue)
    assert torch.equal(
        read(case.network, parameters, fast, cue, known=torch.zeros_like(episode.known)).pattern, free.pattern
    )
    assert torch.equal(read(case.network, parameters, fast, cue, known=torch.ones_like(episode.known)).pattern, cue)


@every_case
def test_a_trajectory_begins_with_the_cue_and_ends_with_the_answer(case: Case) -> None:
    episode = draw(case)
    reading = episode.read(case.network, episode.fast)
    assert reading.iterates is not None
    assert reading.energies is not None
    assert len(reading.iterates) == len(reading.energies) == BEYOND + 1
    assert torch.equal(reading.iterates[0], episode.cue)
    assert torch.equal(reading.iterates[-1], reading.pattern)
    assert torch.equal(reading.energies[0], reading.energy_before)
    assert torch.equal(reading.energies[-1], reading.energy_after)


@every_case
def test_no_trajectory_is_kept_unless_asked_for(case: Case) -> None:
    episode = draw(case)
    reading = read(case.network, episode.parameters, episode.fast, episode.cue)
    assert reading.iterates is reading.energies is None


@every_case
def test_as_many_steps_as_were_trained_are_taken_unless_told_otherwise(case: Case) -> None:
    episode = draw(case)
    unasked = read(case.network, episode.parameters, episode.fast, episode.cue, trajectory=True)
    longer = read(case.network, episode.parameters, episode.fast, episode.cue, steps=BEYOND, trajectory=True)
    assert unasked.iterates is not None
    assert longer.iterates is not None
    assert len(unasked.iterates) == READING_STEPS + 1
    assert torch.equal(longer.iterates[: READING_STEPS + 1], unasked.iterates)
    assert not torch.equal(longer.pattern, unasked.pattern)


@every_case
def test_loops_leave_what_they_are_given_as_it_was(case: Case) -> None:
    episode = draw(case)
    before = {name: value.clone() for name, value in episode.leaves.items()}
    outcome(case.network, episode)
    assert all(torch.equal(value, before[name]) for name, value in episode.leaves.items())


@every_case
def test_familiarity_is_the_same_in_reading_and_in_recognising(case: Case) -> None:
    episode = draw(case)
    reading = read(case.network, episode.parameters, episode.fast, episode.cue)
    delta = delta_energy(case.network, episode.parameters, episode.fast, episode.cue)
    assert error(reading.delta_energy, delta) < 1e-12


def test_a_gradient_keeps_its_direction_and_stays_below_the_bound() -> None:
    gradient = draw(SMALL["quadratic in closed form"]).cue
    assert error(clip_pattern(1e-6 * gradient), 1e-6 * gradient) < 1e-9
    for size in (1.0, 1e3, 1e9):
        clipped = clip_pattern(size * gradient)
        assert clipped.norm(dim=-1).max() <= gradient.shape[-1] ** 0.5
        assert (
            error(clipped / clipped.norm(dim=-1, keepdim=True), gradient / gradient.norm(dim=-1, keepdim=True)) < 1e-9
        )


def test_writing_lowers_the_energy_of_what_is_written_and_less_that_of_anything_else() -> None:
    parameters, patterns = untrained(), signs()
    fast = written(patterns)
    own = delta_energy(NETWORK, parameters, fast, patterns)
    strange = delta_energy(NETWORK, parameters, fast, signs(seed=1))
    neighbours = delta_energy(NETWORK, parameters, fast, patterns.roll(1, 0))
    assert own.max() < 0
    assert own.max() < strange.min()
    assert own.max() < neighbours.min()


def test_the_energy_falls_to_a_floor_and_stays_there() -> None:
    energies = recalled(signs(), steps=12).energies
    assert energies is not None
    changes, depth = energies.diff(dim=0), energies[0] - energies[-1]
    assert (changes[:3] < 0).all()
    assert (changes < 1e-2 * depth).all(), "momentum swings about the floor, but little"


def test_reading_leads_to_what_was_written() -> None:
    patterns = signs()
    assert torch.equal(recalled(patterns).pattern.sign(), patterns)
