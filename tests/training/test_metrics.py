"""Figures of merit and rivals, against answers known otherwise."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import roc_auc_score
from tests.support.tiny_training import RECIPE, stripes
from torch import Generator

from attractor_server.training.baselines import Ridge, find_nearest, look_up
from attractor_server.training.initialization import initialize_model
from attractor_server.training.metrics import SCORES, auroc, identification_rate
from attractor_server.training.validation import Task, fill_gaps, fit_ridge, validate

DRAWN = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


@given(positive=DRAWN, negative=DRAWN)
def test_auroc_is_that_of_scikit_learn_ties_included(positive: list[int], negative: list[int]) -> None:
    truth = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(truth, positive + negative)
    assert auroc(torch.tensor(positive).float(), torch.tensor(negative).float()) == pytest.approx(expected)


def test_auroc_of_scores_that_do_not_overlap_is_one() -> None:
    assert auroc(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [2.0]])) == 1.0
    assert auroc(torch.tensor([1.0]), torch.tensor([1.0])) == 0.5


def test_identified_counts_those_nearest_to_their_own_item() -> None:
    items = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]]])
    moved = items + 1.0
    assert identification_rate(moved, items) == 1.0
    moved[0, 0] = torch.tensor([9.0, 1.0])
    assert identification_rate(moved, items) == 0.75


def test_the_nearest_item_is_looked_up_in_the_memory_of_its_cue() -> None:
    items = torch.tensor([[[0.0], [4.0]], [[10.0], [20.0]]])
    cues = torch.tensor([[[3.0], [1.0]], [[0.0], [16.0]]])
    assert find_nearest(cues, items).tolist() == [[1, 0], [0, 1]]
    assert look_up(cues, items).tolist() == [[[4.0], [0.0]], [[10.0], [20.0]]]


def test_figures_are_by_pattern_and_say_what_they_are_called() -> None:
    x, truth = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.4]])
    assert SCORES["mse"](x, truth).tolist() == pytest.approx([8.0, 0.08])
    assert SCORES["bit_error"](x, truth).tolist() == [0.5, 0.0]
    assert SCORES["cosine"](x, truth).tolist() == pytest.approx([-0.6, 0.9985], abs=1e-3)
    assert SCORES["characters"](x, truth).tolist() == [0.5, 0.5]


def test_the_ridge_finds_the_map_that_scikit_learn_finds() -> None:
    generator = Generator().manual_seed(0)
    cues = torch.randn(200, 6, generator=generator)
    patterns = cues @ torch.randn(6, 3, generator=generator) + 0.1 * torch.randn(200, 3, generator=generator)
    constant = torch.cat([cues, torch.ones(200, 1)], 1)
    oracle = SklearnRidge(alpha=2.0, fit_intercept=False).fit(constant.double().numpy(), patterns.double().numpy())
    expected = torch.from_numpy(oracle.predict(constant.double().numpy()))
    restored = Ridge.fit(cues, patterns, penalty=2.0).restore(cues)
    torch.testing.assert_close(restored, expected.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_the_fitted_ridge_restores_better_than_the_cue_and_a_network_that_cannot_store_adds_nothing(
    number: int,
) -> None:
    data, table = stripes(), RECIPE.cues[number]
    start = initialize_model(RECIPE, data)
    mute = {name: torch.full_like(value, -40.0) for name, value in start.parameters.writer.items()}
    model = replace(start, parameters=replace(start.parameters, writer=mute))
    task = Task(data=RECIPE.data, cues=[table], count=8, memories=4)
    figures = validate(model, data, task, ridge=fit_ridge(data, [table], partial(fill_gaps, model), rounds=1))
    assert figures["mse_ridge"] < figures["mse_cue"]
    assert figures["mse_recalled"] == pytest.approx(figures["mse_no_write"])
    assert figures["auroc"] == 0.5
