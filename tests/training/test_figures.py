"""Figures of merit and rivals, against answers known otherwise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import roc_auc_score
from tests.training.tiny import stripes
from torch import Generator

from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.transform import Transform
from attractor_server.training.baselines import Ridge, look_up, nearest
from attractor_server.training.evaluation import auroc, identified, mean_squared_error
from attractor_server.training.start import Blueprint
from attractor_server.training.validation import Task, fit_ridge, validate

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


@given(positive=SCORES, negative=SCORES)
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
    assert identified(moved, items) == 1.0
    moved[0, 0] = torch.tensor([9.0, 1.0])
    assert identified(moved, items) == 0.75


def test_the_nearest_item_is_looked_up_in_the_memory_of_its_cue() -> None:
    items = torch.tensor([[[0.0], [4.0]], [[10.0], [20.0]]])
    cues = torch.tensor([[[3.0], [1.0]], [[0.0], [16.0]]])
    assert nearest(cues, items).tolist() == [[1, 0], [0, 1]]
    assert look_up(cues, items).tolist() == [[[4.0], [0.0]], [[10.0], [20.0]]]


def test_the_mean_squared_error_is_over_all_entries() -> None:
    assert mean_squared_error(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2)) == 7.5


def test_the_ridge_finds_the_map_that_scikit_learn_finds() -> None:
    generator = Generator().manual_seed(0)
    cues = torch.randn(200, 6, generator=generator)
    patterns = cues @ torch.randn(6, 3, generator=generator) + 0.1 * torch.randn(200, 3, generator=generator)
    constant = torch.cat([cues, torch.ones(200, 1)], 1)
    oracle = SklearnRidge(alpha=2.0, fit_intercept=False).fit(constant.double().numpy(), patterns.double().numpy())
    expected = torch.from_numpy(oracle.predict(constant.double().numpy()))
    restored = Ridge.fit(cues, patterns, penalty=2.0).restore(cues)
    torch.testing.assert_close(restored, expected.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("distortion", ["block", "noise"])
def test_the_fitted_ridge_restores_better_than_the_cue(distortion: str) -> None:
    data = stripes()
    task = Task(count=8, distortion="block" if distortion == "block" else "noise", memories=4)
    network = Quadratic(inputs=784, features=3)
    parameters = Parameters(
        slow={"A": torch.zeros(784, 3), "a0": torch.zeros(3), "log_q": torch.zeros(784), "qb": torch.zeros(784)},
        initial={"W": torch.zeros(3, 3), "b": torch.zeros(3)},
        reader=initial_reader(2),
        writer=initial_writer(1, ["W", "b"]),
    )
    plain = Transform(scale=torch.ones(784), shift=torch.zeros(784))
    figures = validate(
        Blueprint(network, plain),
        parameters,
        data,
        task,
        ridge=fit_ridge(data.patterns, distortion=task.distortion, rounds=1),
    )
    assert figures["mse_ridge"] < figures["mse_cue"]
    assert figures["mse_recalled"] == pytest.approx(figures["mse_no_write"])  # a network that cannot store
    assert figures["auroc"] == 0.5
