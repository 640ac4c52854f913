"""What memories that are computed together may know of one another: nothing.

Within one shape of batch, what belongs to one memory holds bit for bit whatever the others, and the padding, contain.
In another shape the products sum in another order, so there results agree to rounding.
"""

from dataclasses import replace

import pytest
import torch
from tests.support.episodes import PRESENT, Outcome, draw, errors, outcome
from tests.support.network_cases import WIDE, Case
from torch import Tensor

every_case = pytest.mark.parametrize("case", WIDE.values(), ids=WIDE.keys())
every_bad = pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
FIRST = torch.tensor([True, False, False, False])


def rows(result: Outcome, chosen: Tensor) -> dict[str, Tensor]:
    return {name: part[chosen] for name, part in result.parts.items()}


def assert_same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@every_case
def test_a_memory_batched_and_padded_is_as_it_is_alone(case: Case) -> None:
    episode = draw(case).to(torch.float32)
    together = outcome(case.network, episode)
    for memory in range(len(PRESENT)):
        alone = outcome(case.network, episode.alone(memory))
        found = {name: part[memory, None] for name, part in together.parts.items()}
        wrong = errors(found, alone.parts)
        assert wrong.pop("delta") < 1e-5, "it is a small difference of energies, and keeps one digit fewer"
        assert max(wrong.values()) < 1e-6


@every_case
def test_what_others_write_and_read_never_changes_a_bit(case: Case) -> None:
    episode, other = draw(case, seed=0).to(torch.float32), draw(case, seed=1).to(torch.float32)

    def mixed(mine: Tensor, theirs: Tensor) -> Tensor:
        return torch.where(FIRST.reshape(-1, *(1,) * (mine.dim() - 1)), mine, theirs)

    strangers = replace(
        episode,
        held={name: mixed(value, other.held[name]) for name, value in episode.held.items()},
        patterns=mixed(episode.patterns, other.patterns),
        present=mixed(episode.present, ~episode.present),
        stored=mixed(episode.stored, episode.stored + 9),
        cue=mixed(episode.cue, other.cue),
        known=mixed(episode.known, ~other.known),
    )
    found, wanted = outcome(case.network, strangers), outcome(case.network, episode)
    assert_same_bits(rows(found, FIRST), rows(wanted, FIRST))
    assert not torch.equal(found.iterates[~FIRST], wanted.iterates[~FIRST])


@every_case
@every_bad
def test_what_stands_in_the_place_of_an_absent_pattern_never_changes_a_bit(case: Case, bad: float) -> None:
    episode = draw(case).to(torch.float32)
    padded = replace(episode, patterns=torch.where(episode.present[..., None], episode.patterns, bad))
    assert_same_bits(outcome(case.network, padded).parts, outcome(case.network, episode).parts)


@every_case
@every_bad
@pytest.mark.parametrize("part", ["patterns", "cue", "held"])
def test_what_is_not_finite_stays_in_its_memory(case: Case, bad: float, part: str) -> None:
    episode = draw(case).to(torch.float32)
    poisoned = {name: value.clone() for name, value in episode.leaves.items()}
    for name in poisoned:
        if name.startswith(part):
            poisoned[name][0].view(-1)[0] = bad
    found, wanted = outcome(case.network, episode.at(poisoned)), outcome(case.network, episode)
    assert_same_bits(rows(found, ~FIRST), rows(wanted, ~FIRST))
    assert all(value.isfinite().all() for value in rows(found, ~FIRST).values())


@every_case
def test_a_cue_that_is_not_finite_spoils_no_other_cue_of_its_memory(case: Case) -> None:
    episode = draw(case).to(torch.float32)
    cue = episode.cue.clone()
    cue[0, 0, 0] = float("nan")
    found, wanted = outcome(case.network, replace(episode, cue=cue)), outcome(case.network, episode)
    assert torch.equal(found.iterates[:, :, 1], wanted.iterates[:, :, 1])
    assert not found.iterates[0, -1, 0].isfinite().all()


@every_case
def test_a_memory_that_writes_nothing_keeps_its_initial_weights(case: Case) -> None:
    present = PRESENT & ~FIRST[:, None]
    episode = draw(case, present=present).to(torch.float32)
    episode = replace(episode, held={name: torch.zeros_like(value) for name, value in episode.held.items()})
    for name, value in outcome(case.network, episode).fast.items():
        assert torch.equal(value[0], episode.parameters.initial[name])


@every_case
def test_the_order_of_the_patterns_in_one_write_does_not_matter(case: Case) -> None:
    episode = draw(case)
    turned = replace(episode, patterns=episode.patterns.flip(1), present=episode.present.flip(1))
    assert max(errors(outcome(case.network, turned).parts, outcome(case.network, episode).parts).values()) < 1e-11
