"""Which page of a memory answers: by the energy of the cue, and where two are about as probable, by their answers."""

import asyncio
from dataclasses import replace

import numpy as np
import torch
from tests.support.engine_bench import Bench, flipped, signs

from attractor_server.energy.familiarity import Calibration, choice_of, misfit
from attractor_server.energy.model import Model
from attractor_server.memories.outcomes import Recalled, Recognized
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Operation

REWRITE = MemorySettings(page_patterns=8)
Loop = asyncio.AbstractEventLoop


def test_the_calibration_makes_pages_of_different_sizes_comparable_and_an_empty_page_is_never_chosen() -> None:
    gaps = torch.tensor([[-9.0, -1.0], [-3.0, -1.0], [-2.0, -0.5]])
    stored = torch.tensor([0, 4, 32])
    assert choice_of(gaps, stored, None).page.tolist() == [1, 1]
    assert choice_of(gaps, stored, Calibration(torch.tensor([0.0, -1.0, 1.0]))).page.tolist() == [2, 2]
    assert choice_of(gaps, torch.zeros(3), None).page.tolist() == [0, 0]
    assert choice_of(torch.tensor([[torch.nan], [5.0]]), torch.tensor([1, 1]), None).page.tolist() == [1]


def misled(model: Model, by: float) -> Model:
    """The model with a calibration that takes higher energies for better, by so much log-odds for each unit."""
    return replace(model, calibration=Calibration(torch.tensor([0.0, by, 0.0])))


def test_of_two_pages_about_as_probable_the_one_whose_answer_is_nearer_to_the_cue_answers(
    loop: Loop, binary: Model, random: np.random.Generator
) -> None:
    stored = signs(random, 16)
    cues, right = flipped(random, stored, 0.1), np.repeat([0, 1], 8)
    for by, expected in ((1e-3, right), (1e3, 1 - right)):
        bench = Bench(misled(binary, by), loop, settings=REWRITE)
        bench.store("a", stored)
        jobs = [bench.job(Operation.QUERY, "a", cues[part]) for part in (slice(0, 5), slice(5, 6), slice(6, 16))]
        answers = [one for one in bench.run(*jobs) if isinstance(one, Recalled)]
        pages = np.concatenate([np.zeros(len(one.values), int) if one.pages is None else one.pages for one in answers])
        assert pages.tolist() == expected.tolist()
        if expected is right:
            assert (np.sign(np.concatenate([one.values for one in answers])) == stored).mean() > 0.99
            assert all(len(one.energy_after) == len(one.delta_energy) == len(one.values) for one in answers)


def test_a_cue_that_is_held_where_it_is_known_says_nothing_of_two_pages_about_as_probable(
    loop: Loop, binary: Model, random: np.random.Generator
) -> None:
    bench, stored = Bench(misled(binary, 1e-3), loop, settings=REWRITE), signs(random, 16)
    bench.store("a", stored)
    known = np.zeros(stored.shape, np.bool_)
    known[:, :100] = True
    (recalled,) = bench.run(bench.job(Operation.QUERY, "a", stored, known))
    assert isinstance(recalled, Recalled)
    assert recalled.pages is not None
    assert recalled.pages.tolist() == [1] * 8 + [0] * 8


def test_recognition_asks_one_page_also_where_two_are_about_as_probable(
    loop: Loop, binary: Model, random: np.random.Generator
) -> None:
    bench, stored = Bench(misled(binary, 1e-3), loop, settings=REWRITE), signs(random, 16)
    bench.store("a", stored)
    (recognized,) = bench.run(bench.job(Operation.RECOGNIZE, "a", stored))
    assert isinstance(recognized, Recognized)
    assert recognized.energy.shape == (16,)
    assert recognized.pages is not None
    assert recognized.pages.tolist() == [1] * 8 + [0] * 8


def test_where_missing_entries_and_distorted_ones_are_the_misfit_counts_the_others() -> None:
    answers = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    cue = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0]])
    assert misfit(cue, answers).tolist() == [7.0]
    cue[0, :5] = torch.nan
    assert misfit(cue, answers).tolist() == [2 + 81.0]
