"""Missing characters filled in from what follows what in training lines."""

import math

import pytest
import torch
from torch import Generator, Tensor

from attractor_server.training.baselines.ngram import MISSING, NGram

ALPHABET = "abcdef "


def encoded(*lines: str) -> Tensor:
    return torch.tensor([[ALPHABET.find(c) if c != "?" else MISSING for c in line] for line in lines])


def fitted(*lines: str, order: int = 4) -> NGram:
    return NGram.fit(encoded(*lines), characters=len(ALPHABET), order=order)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_what_is_certain_is_filled_in(order: int) -> None:
    lines = ["abcdefabcdef", "cdefabcdefab"]
    model = fitted(*lines, order=order)
    torch.testing.assert_close(model.fill(encoded("ab?d?fa??def", "?def?bcdef?b")), encoded(*lines))


def test_what_is_known_stays_even_where_it_was_never_seen() -> None:
    line = encoded("fbd ca")
    assert torch.equal(fitted("abcdef").fill(line), line)


def test_the_right_side_counts_as_the_left_one_does() -> None:
    model = fitted("abd", "abd", "ace", order=2)
    assert torch.equal(model.fill(encoded("a?d", "a?e")), encoded("abd", "ace"))


def test_the_beginning_of_a_line_is_a_context() -> None:
    model = fitted("abbbbb", "abbbbb")
    assert torch.equal(model.fill(encoded("?bbbbb")), encoded("abbbbb"))


def test_a_gap_is_filled_with_the_likeliest_characters_of_all() -> None:
    """Against every way of filling the gap, one by one."""
    generator = Generator().manual_seed(0)
    training = torch.randint(0, 4, (40, 8), generator=generator)
    model = NGram.fit(training, characters=4, order=3)
    line = torch.tensor([0, MISSING, MISSING, 3, MISSING, 1, 2, MISSING])
    ways = torch.cartesian_prod(*(torch.arange(4) if c == MISSING else c.reshape(1) for c in line))
    best = max(ways, key=lambda way: log_likelihood(model, way))
    assert torch.equal(model.fill(line[None], beam=1024)[0], best)


def test_the_characters_after_a_context_share_one_probability() -> None:
    odds = fitted("abcabc", "bcd ef").log_odds.exp()
    assert odds.shape == (8, 8, 8, 7)
    torch.testing.assert_close(odds.sum(-1), torch.ones(8, 8, 8))
    assert math.isclose(float(odds[7, 7, 7, 0]), float(odds[7, 7, 7, 1]), rel_tol=0.2)  # each began one line
    assert float(odds[0, 1, 2].max()) == float(odds[0, 1, 2, 0])


def log_likelihood(model: NGram, line: Tensor) -> float:
    context, total = [4, 4], 0.0
    for character in line.tolist():
        total += float(model.log_odds[context[0], context[1], character])
        context = [context[1], character]
    return total
