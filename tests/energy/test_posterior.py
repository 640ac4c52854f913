"""Posteriors over kept patterns: what answers, probabilities and files of them are."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.support.model_files import refusal, tiny
from torch import Generator, Tensor

from attractor_server.energy import reference
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.energy.posterior import (
    AGREEMENTS,
    NONE,
    REACH,
    SLIGHT,
    STORED_ODDS,
    Area,
    Evidence,
    Posterior,
    View,
    answer,
    compare_covered,
    compare_moved,
    gather_evidence,
    item_probabilities,
    known_probability,
    mean_item,
)

SIZE = 6
ONE = Posterior(
    weights=torch.linspace(0.5, 3, len(AGREEMENTS)).double(), none=torch.linspace(-1, 1, len(NONE)).double()
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def views(*, gaps: bool) -> tuple[View, View, View]:
    """Cues, readings and kept patterns of two memories; value by value they are twice what the network sees."""
    cues, readings, kept = (draw(2, count, SIZE, seed=seed) for seed, count in enumerate((3, 3, 5)))
    told = cues.masked_fill(draw(2, 3, SIZE, seed=7) > 0.5, math.nan) if gaps else cues
    return View(cues, 2 * told), View(readings, 2 * readings), View(kept, 2 * kept)


def gather(*, gaps: bool, present: Tensor | None = None) -> Evidence:
    cues, readings, kept = views(gaps=gaps)
    return gather_evidence(cues, readings, kept, delta_energy=draw(2, 3, seed=9), present=present)


@pytest.mark.parametrize("gaps", [False, True])
def test_agreements_are_those_of_one_pattern_after_another(gaps: bool) -> None:
    cues, readings, kept = views(gaps=gaps)
    found = gather(gaps=gaps)
    for memory, cue, item in ((0, 0, 0), (0, 2, 4), (1, 1, 3)):
        x, u = (
            [part[memory, which] for part, which in zip(parts, (cue, cue, item), strict=True)]
            for parts in ((cues.x, readings.x, kept.x), (cues.u, readings.u, kept.u))
        )
        assert torch.allclose(found.agreements[memory, cue, item], torch.stack(reference.agreements(x, u)))
        # The reading is compared with the cue as a kept pattern would be
        own = reference.agreements([x[0], x[1], x[1]], [u[0], u[1], u[1]])
        given = (~u[0].isnan()).double().mean()
        assert torch.allclose(found.none[memory, cue, 3:], torch.stack([given, own[0], own[2], own[4]]))


def test_agreements_that_have_no_weight_are_left_out_and_change_nothing() -> None:
    cues, readings, kept = views(gaps=True)
    some = replace(ONE, weights=ONE.weights * torch.tensor([1, 0, 1, 0, 0, 1]))
    found = gather_evidence(cues, readings, kept, delta_energy=draw(2, 3, seed=9), used=some.used)
    assert float(found.agreements[..., 4].abs().max()) == 0
    assert torch.allclose(some.scores(found), some.scores(gather(gaps=True)))


HEIGHT, WIDTH, CHANNELS = 6, 7, 2
IMAGE = HEIGHT * WIDTH * CHANNELS


def images(*, gaps: bool) -> tuple[View, View]:
    """Cues and kept patterns of two memories, each a value and an image; the cues are kept ones moved by 2, 1."""
    kept = draw(2, 5, IMAGE + 1)
    places = kept[..., 1:].unflatten(-1, (HEIGHT, WIDTH, CHANNELS))
    moved = torch.cat([kept[..., :1], places.roll((2, 1), (2, 3)).flatten(2)], -1)[:, :3]
    if gaps:
        moved = moved.masked_fill(draw(2, 3, IMAGE + 1, seed=7) > 0.5, math.nan)
    areas = [Area(slice(1, IMAGE + 1), HEIGHT, WIDTH)]
    return View(moved.nan_to_num(), moved, areas), View(kept, kept)


@pytest.mark.parametrize("gaps", [False, True])
def test_the_middle_of_an_image_agrees_best_with_the_part_of_a_pattern_that_it_was_moved_from(gaps: bool) -> None:
    cues, kept = images(gaps=gaps)
    found = compare_moved(cues, kept.u)
    assert torch.equal(found.argmax(-1), torch.arange(3).expand(2, 3))
    assert torch.allclose(found.amax(-1), torch.full((2, 3), -math.log(SLIGHT), dtype=torch.float64))
    pictures = [x[..., 1:].unflatten(-1, (HEIGHT, WIDTH, CHANNELS)) for x in (cues.u, kept.u)]
    alone = View(cues.x[..., 1:], cues.u[..., 1:], [Area(slice(0, IMAGE), HEIGHT, WIDTH)])
    found = compare_moved(alone, kept.u[..., 1:])
    for memory, cue, item in ((0, 0, 0), (0, 2, 4), (1, 1, 3)):
        expected = reference.moved_agreement(
            pictures[0][memory, cue], pictures[1][memory, item], reach=REACH, slight=SLIGHT
        )
        assert torch.allclose(found[memory, cue, item], expected)


@pytest.mark.parametrize("gaps", [False, True])
def test_what_is_beside_a_covered_part_agrees_best_with_the_pattern_that_was_covered(gaps: bool) -> None:
    _, kept = images(gaps=False)
    covered = kept.u[:, :3, 1:].unflatten(-1, (HEIGHT, WIDTH, CHANNELS)).clone()
    covered[:, :, 2:5, 3:6] = torch.tensor([0.5, -2], dtype=torch.float64)
    if gaps:
        covered[draw(*covered.shape, seed=7) > 1] = math.nan
    shift = draw(IMAGE, seed=8)
    area = Area(slice(0, IMAGE), HEIGHT, WIDTH, shift)
    cues = View(covered.flatten(2).nan_to_num(), covered.flatten(2) + shift, [area])
    found = compare_covered(cues, kept.u[..., 1:] + shift)
    assert torch.equal(found.argmax(-1), torch.arange(3).expand(2, 3))
    assert torch.allclose(found.amax(-1), torch.full((2, 3), -math.log(SLIGHT), dtype=torch.float64))
    for memory, cue, item in ((0, 0, 0), (0, 2, 4), (1, 1, 3)):
        picture = kept.u[memory, item, 1:].unflatten(-1, (HEIGHT, WIDTH, CHANNELS))
        assert torch.allclose(
            found[memory, cue, item], reference.covered_agreement(covered[memory, cue], picture, slight=SLIGHT)
        )


def test_a_pattern_scores_as_if_its_image_were_in_place_or_moved_or_covered_whichever_it_was() -> None:
    cues, kept = images(gaps=False)
    evidence = gather_evidence(cues, cues, kept, delta_energy=draw(2, 3, seed=9))
    cases = torch.tensor([[3.0, -1], [2.0, -3]], dtype=torch.float64)
    alone, moving = ONE.scores(evidence), replace(ONE, cases=cases)
    assert evidence.cases is not None
    expected = alone[..., :-1].exp() + (evidence.cases * cases[:, 0] + cases[:, 1]).exp().sum(-1)
    assert torch.allclose(moving.scores(evidence)[..., :-1].exp(), expected)
    assert torch.equal(moving.scores(evidence)[..., -1], alone[..., -1])
    assert item_probabilities(moving.scores(evidence)).argmax(-1).tolist() == [[0, 1, 2]] * 2
    unmoved = gather_evidence(cues, cues, kept, delta_energy=draw(2, 3, seed=9), images=False)
    assert unmoved.cases is None
    assert torch.equal(moving.scores(unmoved), alone)


def test_where_one_pattern_is_meant_if_any_the_answer_is_a_gradient_step_on_the_energy_from_the_reading() -> None:
    scores, kept, reading = draw(2, 3, 6), draw(2, 5, SIZE, seed=1), draw(2, 3, SIZE, seed=2)
    scores[..., [1, 5]] += 12
    found = answer(scores, kept, reading, draw(2, 3, SIZE, seed=3))
    for memory, cue in ((0, 0), (1, 2)):
        items, none = scores[memory, cue, :-1], scores[memory, cue, -1] - math.log(STORED_ODDS)
        expected = reference.posterior_mean(items, none, kept[memory], reading[memory, cue])
        assert torch.allclose(found[memory, cue], expected)


def test_where_patterns_share_the_posterior_the_answer_is_that_of_one_cue_after_another() -> None:
    scores, kept, reading = draw(2, 3, 6), draw(2, 5, SIZE, seed=1), draw(2, 3, SIZE, seed=2)
    scores[..., -1] = -60
    again = mean_item(scores, kept) + 0.1 * draw(2, 3, SIZE, seed=3)
    found = answer(scores, kept, reading, again)
    for memory, cue in ((0, 0), (1, 2)):
        expected = reference.weigh_copies(scores[memory, cue, :-1], kept[memory], again[memory, cue])
        assert torch.allclose(found[memory, cue], expected)


def test_a_pattern_that_is_told_for_sure_is_answered_as_it_is_kept() -> None:
    scores = torch.full((1, 1, 6), -50.0, dtype=torch.float64)
    scores[..., 2] = 50
    kept, reading, again = draw(1, 5, SIZE), draw(1, 1, SIZE, seed=1), draw(1, 1, SIZE, seed=2)
    assert torch.allclose(answer(scores, kept, reading, again), kept[:, 2:3])
    assert float(known_probability(scores)) == 1
    assert item_probabilities(scores).argmax(-1).tolist() == [[2]]


def test_copies_that_share_the_posterior_are_answered_by_the_network_in_proportion_to_how_much_they_differ() -> None:
    scores = torch.zeros(1, 1, 9, dtype=torch.float64)
    scores[..., -1] = -60
    thing = draw(1, 1, SIZE, seed=1)
    again = thing + 0.05 * draw(1, 1, SIZE, seed=4)
    noisy, nearly = (thing + sigma * draw(1, 8, SIZE, seed=2) for sigma in (1.0, 0.001))
    rough = (noisy.mean(1, keepdim=True) - thing).norm()
    assert (answer(scores, noisy, 0 * thing, again) - thing).norm() < rough / 2
    mean = nearly.mean(1, keepdim=True)
    assert (answer(scores, nearly, 0 * thing, again) - mean).norm() < 0.01 * (again - mean).norm()


def test_one_copy_that_seems_more_probable_does_not_bring_its_noise_and_what_is_no_copy_has_no_part() -> None:
    thing, other = draw(1, 1, SIZE, seed=1), draw(1, 4, SIZE, seed=5)
    copies = thing + 0.5 * draw(1, 8, SIZE, seed=2)
    scores = torch.tensor([[[4.0] + [0.0] * 7 + [1.0] * 4 + [-60.0]]], dtype=torch.float64)
    found = answer(scores, torch.cat([copies, 9 * other], 1), 0 * thing, thing + 0.05 * draw(1, 1, SIZE, seed=4))
    assert (found - thing).norm() < (copies[:, :1] - thing).norm() / 3


def test_absent_patterns_have_no_effect_and_where_all_are_absent_the_network_answers_alone() -> None:
    present = torch.tensor([[True, True, False, True, False], [False] * 5])
    evidence = gather(gaps=False, present=present)
    scores = ONE.scores(evidence, present=present)
    kept, reading = draw(2, 5, SIZE, seed=2), draw(2, 3, SIZE, seed=3)
    found, known = answer(scores, kept, reading, reading), known_probability(scores)
    assert torch.allclose(found[1], reading[1])
    assert torch.equal(known[1], torch.zeros(3, dtype=torch.float64))
    some = present[0]
    alone = ONE.scores(Evidence(evidence.agreements[:1, :, some], evidence.none[:1]))
    assert torch.allclose(known[:1], known_probability(alone))
    assert torch.allclose(found[:1], answer(alone, kept[:1, some], reading[:1], reading[:1]))
    assert torch.allclose(evidence.none[0, :, 2].exp(), torch.full((3,), 3.0, dtype=torch.float64))


def test_probabilities_of_patterns_add_up_to_that_of_being_known() -> None:
    scores = ONE.scores(gather(gaps=True))
    assert torch.allclose(item_probabilities(scores).sum(-1), known_probability(scores))


FITTED = Posterior(
    weights=torch.tensor([1.5, 0, 0.1, 0, 7, 0]),
    none=torch.linspace(-1, 2, len(NONE)),
    cases=torch.tensor([[9.0, -2], [3, -4]]),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.safetensors"


def test_a_file_brings_the_posterior_back_and_the_digest_does_not_depend_on_it(path: Path) -> None:
    bare = save_model(tiny(), path)
    assert load_model(path).posterior is None
    saved = save_model(tiny(posterior=FITTED), path)
    found = load_model(path)
    assert (saved.digest, found.digest) == (bare.digest, bare.digest)
    assert found.posterior is not None
    assert torch.equal(found.posterior.weights, FITTED.weights)
    assert torch.equal(found.posterior.none, FITTED.none)
    assert found.posterior.cases is not None
    assert found.posterior.cases.tolist() == [[9, -2], [3, -4]]


@pytest.mark.parametrize("cases", [None, torch.tensor([[9, -2], [0, -torch.inf]])])
def test_a_posterior_for_which_images_stay_as_they_are_is_brought_back_as_such(
    path: Path, cases: Tensor | None
) -> None:
    save_model(tiny(posterior=replace(FITTED, cases=cases)), path)
    found = load_model(path).posterior
    assert found is not None
    assert (found.cases is None) == (cases is None)
    assert cases is None or found.cases is None or torch.equal(found.cases, cases)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda fits: fits["posterior"]["weights"].update(cue_cosine=2.0), "damaged: its fits have checksum"),
        (lambda fits: fits["posterior"]["weights"].update(cue_cosine=-2.0), "expected none below 0"),
        (lambda fits: fits["posterior"]["moved"].update(weight=-2.0), "expected one not below 0"),
        (lambda fits: fits["posterior"]["moved"].pop("offset"), "expected weight, offset"),
        (lambda fits: fits["posterior"]["none"].pop("given"), "expected intercept, delta_energy"),
        (lambda fits: fits["posterior"]["none"].update(given="much"), "cannot be read"),
        (lambda fits: fits["posterior"]["none"].update(given=math.inf), "expected finite numbers"),
        (lambda fits: fits.update(posterior=[1.0]), "cannot be read"),
        (lambda fits: fits.update(posterior={"weights": {}}), "cannot be read"),
    ],
)
def test_a_posterior_that_cannot_be_meant_is_refused(path: Path, change: object, told: str) -> None:
    save_model(tiny(posterior=FITTED), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    section = json.loads(metadata["attractor.fits"])
    assert callable(change)
    change(section["fits"])
    save_file(tensors, path, metadata={**metadata, "attractor.fits": json.dumps(section)})
    assert told in refusal(path)
