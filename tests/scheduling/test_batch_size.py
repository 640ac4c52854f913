"""How large batches are: what is computed in a given time, while several ask."""

import pytest

from attractor_server.scheduling.batch_size import BatchSizer, Contention, SliceCost


def test_the_pace_grows_with_full_batches_that_were_quick_and_falls_with_slow_ones() -> None:
    pace = BatchSizer(batch_s=0.01, batch_limit=512)
    assert pace.limit_of("p") == 64
    pace.learn("p", 64, 0.001)
    assert pace.limit_of("p") == 128
    pace.learn("p", 8, 0.0001)  # says nothing of larger ones
    assert pace.limit_of("p") == 128
    for _ in range(4):
        pace.learn("p", pace.limit_of("p"), 0.001)
    assert pace.limit_of("p") == 512
    pace.learn("p", 512, 0.0125)
    assert pace.limit_of("p") == 410
    pace.learn("p", 1, 1.0)
    assert pace.limit_of("p") == 205
    assert pace.limit_of("another") == 64


def test_a_program_of_which_one_pattern_takes_too_long_is_computed_one_by_one() -> None:
    pace = BatchSizer(batch_s=0.01, batch_limit=512)
    for _ in range(10):
        pace.learn("p", 1, 1.0)
    assert pace.limit_of("p") == 1


def test_namespaces_are_in_company_while_more_than_one_asks() -> None:
    company = Contention()
    assert not company.is_present(0.0)
    company.note("a", 0.0)
    company.note("a", 0.5)
    assert not company.is_present(0.5)
    company.note("b", 1.0)
    company.note("b", 1.9)
    assert company.is_present(1.9)
    assert not company.is_present(2.1)
    company.note("a", 3.0)
    assert company.is_present(3.0)


def test_without_a_bound_in_time_batches_are_as_large_as_they_may_be() -> None:
    pace = BatchSizer(batch_s=None, batch_limit=512)
    pace.learn("p", 512, 60.0)
    assert pace.limit_of("p") == 512


def test_a_part_of_a_long_request_counts_as_much_as_others_are_computed_in_that_time() -> None:
    worth = SliceCost()
    assert worth.count_patterns(0.01) == 64
    for _ in range(200):
        worth.learn(1, 0.01)
    assert worth.count_patterns(0.007) == 1
    for _ in range(200):
        worth.learn(100, 0.001)
    assert worth.count_patterns(0.01) == pytest.approx(1000, rel=0.05)
