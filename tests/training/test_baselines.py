"""Rivals, against closed forms, slow twins and figures known otherwise."""

import faiss
import pytest
import torch
from torch import Generator, Tensor

from attractor_server.training.baselines import ConditionalGaussian, Ridge, Rival
from attractor_server.training.baselines.graded import Fit, Graded, tune
from attractor_server.training.baselines.hopfield import Hopfield, Signs, hebb, pseudo_inverse, storkey
from attractor_server.training.baselines.modern import ModernHopfield
from attractor_server.training.baselines.product import Product
from attractor_server.training.baselines.slots import Float32, Int8, Pca, Slots

NO_SELF_COUPLING = Signs(order="asynchronous")


def signs(memories: int, n: int, d: int = 128, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random patterns and cues with 15 % of the signs flipped."""
    generator = Generator().manual_seed(seed)
    items = torch.randint(0, 2, (memories, n, d), generator=generator) * 2.0 - 1.0
    flipped = torch.rand(memories, n, d, generator=generator) < 0.15
    return items, torch.where(flipped, -items, items)


def percent_wrong(x: Tensor, items: Tensor) -> float:
    return 100 * float((x != items).float().mean())


def correlated(n: int, d: int = 16, *, seed: int = 0) -> Tensor:
    """Draws of one Gaussian with a few strong directions."""
    mixing = torch.randn(d, d, generator=Generator().manual_seed(7)) * 0.6 ** torch.arange(d)[:, None]
    return 0.5 + torch.randn(n, d, generator=Generator().manual_seed(seed)) @ mixing


@pytest.mark.parametrize("self_coupling", [0.0, 1.0])
def test_patterns_are_fixed_points_of_the_pseudo_inverse(self_coupling: float) -> None:
    items, _ = signs(3, 40, 64)
    rival = Hopfield("pseudo-inverse", pseudo_inverse, Signs(self_coupling=self_coupling, sweeps=3))
    assert torch.equal(rival.recall(items, items), items)


def test_patterns_in_these_numbers_are_no_fixed_points_of_hebbs_rule() -> None:
    items, _ = signs(3, 40, 64)
    assert percent_wrong(Hopfield("Hebb", hebb, Signs()).recall(items, items), items) > 5


def test_storkeys_rule_is_that_of_the_paper_entry_by_entry() -> None:
    items, _ = signs(2, 4, 6)
    for patterns, weights in zip(items, storkey(items), strict=True):
        expected = torch.zeros(6, 6)
        for p in patterns:
            before = expected.clone()
            for i in range(6):
                for j in range(6):
                    h_ij = sum(before[i, k] * p[k] for k in range(6) if k not in (i, j))
                    h_ji = sum(before[j, k] * p[k] for k in range(6) if k not in (i, j))
                    expected[i, j] += (p[i] * p[j] - p[i] * h_ji - h_ij * p[j]) / 6
        torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize(("n", "known", "tolerance"), [(32, 1.3, 0.8), (48, 12, 2.5), (64, 24, 3)])
def test_storkeys_rule_reaches_its_known_errors(n: int, known: float, tolerance: float) -> None:
    items, cues = signs(12, n)
    recalled = Hopfield("Storkey", storkey, NO_SELF_COUPLING).recall(items, cues)
    assert percent_wrong(recalled, items) == pytest.approx(known, abs=tolerance)


def test_graded_reads_of_the_pseudo_inverse_beat_signs_at_half_the_dimension() -> None:
    items, cues = signs(8, 64)
    by_sign, graded = (
        percent_wrong(Hopfield("pseudo-inverse", pseudo_inverse, reader).recall(items, cues), items)
        for reader in (NO_SELF_COUPLING, Graded.with_constant_beta(beta=4.0))
    )
    assert by_sign == pytest.approx(18, abs=3)
    assert graded == pytest.approx(2.5, abs=1.2)


def test_a_tuned_schedule_beats_its_start_on_other_episodes() -> None:
    start = Graded.with_constant_beta(steps=5)
    tuned = tune(pseudo_inverse, *signs(12, 64, seed=1), Fit(starts=[start], updates=40))
    items, cues = signs(12, 64, seed=2)
    before, after = (
        percent_wrong(Hopfield("pseudo-inverse", pseudo_inverse, reader).recall(items, cues), items)
        for reader in (start, tuned)
    )
    assert after < 0.9 * before


@pytest.mark.parametrize("reader", [Signs(), NO_SELF_COUPLING, Graded.with_constant_beta()])
def test_known_bits_are_kept_and_help(reader: Signs | Graded) -> None:
    items, cues = signs(4, 96)
    known = torch.rand(items.shape, generator=Generator().manual_seed(3)) < 0.5
    cues = torch.where(known, items, cues)
    rival = Hopfield("pseudo-inverse", pseudo_inverse, reader)
    told, untold = rival.recall(items, cues, known=known), rival.recall(items, cues)
    assert torch.equal(told[known], items[known])
    assert percent_wrong(told, items) < percent_wrong(untold, items)


def test_the_softmax_of_few_far_items_is_the_nearest_and_of_equal_ones_their_mean() -> None:
    items = torch.tensor([[[0.0, 0.0], [8.0, 0.0]]])
    cue = torch.tensor([[[3.0, 0.0]]])
    torch.testing.assert_close(ModernHopfield(beta=50.0).recall(items, cue), items[:, :1])
    # log odds β·(9 − 25)/2 at β = 1/16: the far item weighs 1 / (1 + √e)
    expected = 8 * torch.sigmoid(torch.tensor(-0.5))
    assert ModernHopfield(beta=1 / 16).recall(items, cue)[0, 0, 0] == pytest.approx(float(expected))


def test_a_tuned_softmax_beats_the_nearest_item_under_strong_noise() -> None:
    items = correlated(8 * 12).reshape(8, 12, 16)
    cues = items + 2.0 * torch.randn(items.shape, generator=Generator().manual_seed(2))
    errors = [
        float((rival.recall(items, cues) - items).square().mean())
        for rival in (ModernHopfield.tune(items, cues), Slots(Float32()))
    ]
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize("rival", [Slots(Float32()), ModernHopfield(beta=100.0)])
def test_only_known_entries_are_compared(rival: Rival) -> None:
    items = torch.tensor([[[1.0, 0.0], [5.0, 9.0]]])
    cue, known = torch.tensor([[[1.2, 9.0]]]), torch.tensor([[[True, False]]])
    assert rival.recall(items, cue, known=known)[0, 0, 1] == pytest.approx(0.0, abs=1e-5)
    assert rival.recall(items, cue)[0, 0, 1] == pytest.approx(9.0, abs=1e-5)


def test_int8_slots_answer_almost_as_float_ones() -> None:
    items = correlated(3 * 20).reshape(3, 20, 16)
    cues = items + 0.1 * torch.randn(items.shape, generator=Generator().manual_seed(1))
    difference = (Slots(Int8()).recall(items, cues) - Slots(Float32()).recall(items, cues)).abs()
    assert 0 < float(difference.max()) <= float(items.abs().max()) / 254 * 1.001


def test_principal_components_hold_more_the_larger_the_budget_and_the_budget_is_kept() -> None:
    training, items = correlated(600), correlated(100, seed=1)
    errors = []
    for budget in (2, 4, 8, 16):
        codec = Pca.tune(training, budget_bytes=budget)
        assert codec.bytes_per_item(16) <= budget
        errors.append(float((codec.round_trip(items) - items).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 * float(items.var())


def test_components_of_few_bits_are_kept_on_few_values() -> None:
    codec = Pca.fit(correlated(600), budget_bytes=2, bits=4)
    assert len(codec.components) == 4
    codes = (codec.round_trip(correlated(500, seed=1)) - codec.mean) @ codec.components.T
    assert all(len(one.mul(1e3).round().unique()) <= 15 for one in codes.T)


@pytest.mark.parametrize("budget", [4, 5])  # 5 does not divide 16
def test_a_product_quantiser_takes_its_budget_and_keeps_the_more_the_larger(budget: int) -> None:
    training, items = correlated(1000), correlated(100, seed=1)
    codec, double = (Product.fit(training, budget_bytes=bytes_) for bytes_ in (budget, 2 * budget))
    assert Slots(codec).bytes_per_memory(10, 16) == 10 * budget
    error, better = (float((one.round_trip(items) - items).square().mean()) for one in (codec, double))
    assert better < error < float(items.var(0).mean())


def test_a_product_quantiser_decodes_as_faiss_does() -> None:
    training, items = correlated(1000), correlated(50, seed=1)
    oracle = faiss.IndexPQ(16, 4, 8)
    oracle.pq.cp.min_points_per_centroid = 1
    oracle.train(training.numpy())
    oracle.add(items.numpy())
    expected = torch.from_numpy(oracle.reconstruct_n(0, 50))
    torch.testing.assert_close(Product.fit(training, budget_bytes=4).round_trip(items), expected)


def test_a_fitted_rotation_is_orthonormal_and_undone() -> None:
    codec = Product.fit(correlated(1000), budget_bytes=5, rotate=True)
    torch.testing.assert_close(codec.rotation @ codec.rotation.T, torch.eye(16), atol=1e-4, rtol=0)
    items = correlated(50, seed=1)
    assert float((codec.round_trip(items) - items).square().mean()) < 0.5 * float(items.var(0).mean())


def test_the_conditional_mean_of_two_entries_is_that_of_the_textbook() -> None:
    gaussian = ConditionalGaussian(torch.tensor([1.0, -1.0]), torch.tensor([[4.0, 1.2], [1.2, 1.0]]))
    cues, known = torch.tensor([[3.0, 99.0], [99.0, 0.0]]), torch.tensor([[True, False], [False, True]])
    expected = torch.tensor([[3.0, -1.0 + 1.2 / 4.0 * 2.0], [1.0 + 1.2 / 1.0 * 1.0, 0.0]])
    torch.testing.assert_close(gaussian.restore(cues, known), expected, atol=1e-4, rtol=0)


def test_each_mask_has_its_own_equations_in_one_batch() -> None:
    gaussian = ConditionalGaussian.fit(correlated(500))
    x, known = correlated(20, seed=1), torch.rand(20, 16, generator=Generator().manual_seed(2)) < 0.5
    filled = gaussian.restore(x.reshape(4, 5, 16), known.reshape(4, 5, 16)).reshape(20, 16)
    covariance, mean = gaussian.covariance.double(), gaussian.mean.double()
    for row, k, got in zip(x.double(), known, filled, strict=True):
        solved = torch.linalg.solve(covariance[k][:, k], row[k] - mean[k])
        torch.testing.assert_close(got[~k].double(), mean[~k] + covariance[~k][:, k] @ solved, atol=1e-2, rtol=1e-2)
        assert torch.equal(got[k].double(), row[k])


def test_tuning_takes_what_is_best_on_held_out_data() -> None:
    training, held_out = correlated(30), correlated(200, seed=1)
    noise = Generator().manual_seed(2)
    cues, held_cues = (x + 0.5 * torch.randn(x.shape, generator=noise) for x in (training, held_out))
    tuned = Ridge.tune((cues, training), (held_cues, held_out), penalties=[1e-6, 3.0, 1e6])
    torch.testing.assert_close(tuned.weights, Ridge.fit(cues, training, penalty=3.0).weights)
    known = torch.rand(held_out.shape, generator=noise) < 0.5
    gaussian = ConditionalGaussian.tune(training, (held_out, known), shrinkages=[0.02, 1.0])
    torch.testing.assert_close(gaussian.covariance, ConditionalGaussian.fit(training, shrinkage=0.02).covariance)


def test_rivals_say_what_a_memory_takes() -> None:
    sizes: list[tuple[Rival, int]] = [
        (Hopfield("Storkey", storkey, Signs()), 4 * 128 * 129 // 2),
        (ModernHopfield(beta=1.0), 4 * 32 * 128),
        (Slots(Float32()), 4 * 32 * 128),
        (Slots(Int8()), 32 * 132),
        (Ridge(torch.zeros(129, 128)), 0),
        (ConditionalGaussian(torch.zeros(128), torch.eye(128)), 0),
    ]
    assert [rival.bytes_per_memory(32, 128) for rival, _ in sizes] == [size for _, size in sizes]
