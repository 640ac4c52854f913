"""Frames: pages see their vectors in their own metric, and give them back in their user's units."""

import torch
from torch import Generator, Tensor

from attractor_server.energy import reference
from attractor_server.energy.frame import Frame, fit_frame
from attractor_server.energy.reader import read
from attractor_server.energy.writer import delta_energy, write
from attractor_server.training.datasets import load_dataset
from attractor_server.training.model_lookup import open_model

SIZE = 12
ROUNDING = 0.01
"""Of a vector's length: axes are kept in eight bits"""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def alike(*shape: int, seed: int = 0) -> Tensor:
    """Vectors with a large part in common, and more spread in some directions than in others."""
    spread = torch.linspace(0.2, 2.0, shape[-1], dtype=torch.float64)
    return 3 + draw(*shape, seed=seed) * spread


def fit(patterns: Tensor, *, rank: int = SIZE) -> Frame:
    return fit_frame(patterns, present=torch.ones(patterns.shape[:2], dtype=torch.bool), rank=rank)


def test_a_frame_is_what_its_covariance_says() -> None:
    for n in (2, 5, 40):
        patterns, cues = alike(3, n, SIZE, seed=n), alike(3, 4, SIZE, seed=1)
        frame = fit(patterns)
        for page in range(3):
            centre, forth, back = reference.frame(patterns[page], rank=SIZE)
            expected = (cues[page] - centre) @ forth
            assert torch.allclose(frame.encode(cues)[page], expected, atol=ROUNDING * float(expected.norm(dim=1).max()))
            expected = cues[page] @ back + centre
            assert torch.allclose(frame.decode(cues)[page], expected, atol=ROUNDING * float(expected.norm(dim=1).max()))


def test_decoding_undoes_encoding_also_where_few_axes_are_kept() -> None:
    patterns, cues = alike(2, 9, SIZE), draw(2, 5, SIZE, seed=3)
    for rank in (1, 4, SIZE):
        frame = fit(patterns, rank=rank)
        assert frame.axes.shape == (2, rank, SIZE)
        assert torch.allclose(frame.decode(frame.encode(cues)), cues, atol=ROUNDING * float(cues.norm(dim=2).max()))


def test_vectors_keep_the_mean_of_their_squared_lengths() -> None:
    patterns = alike(2, 9, SIZE)
    squares = fit(patterns).encode(patterns).square().sum(2).mean(1)
    assert torch.allclose(squares, patterns.square().sum(2).mean(1), rtol=ROUNDING)


def test_a_missing_value_counts_as_the_mean_of_what_the_page_keeps() -> None:
    frame = fit(alike(1, 9, SIZE))
    cue = frame.mean.clone()[:, None]
    cue[..., :5] = torch.nan
    assert torch.allclose(frame.encode(cue), torch.zeros(1, 1, SIZE, dtype=torch.float64))


def test_one_vector_or_equal_ones_leave_everything_as_it_is() -> None:
    one = alike(1, 1, SIZE)
    for patterns in (one, one.expand(1, 5, SIZE)):
        assert torch.equal(fit(patterns).encode(one), one)
        assert torch.equal(fit(patterns).decode(one), one)


def test_absent_patterns_and_other_pages_have_no_effect() -> None:
    patterns = alike(2, 9, SIZE)
    present = torch.arange(9)[None] < torch.tensor([[4], [9]])
    patterns[0, 4:] = torch.nan
    frame = fit_frame(patterns, present=present, rank=SIZE)
    alone = fit(patterns[:1, :4])
    cues = alike(2, 3, SIZE, seed=5)
    assert torch.allclose(frame.encode(cues)[:1], alone.encode(cues[:1]), atol=1e-9)


def test_the_axes_are_rounded_the_same_whatever_else_is_in_the_batch() -> None:
    several = alike(5, 9, SIZE).float()
    together = fit(several)
    for page in range(5):
        alone = fit(several[page : page + 1])
        assert (together.axes[page].int() - alone.axes[0].int()).abs().max() <= 1
        assert torch.allclose(together.forth[page], alone.forth[0], rtol=1e-5)


def test_in_their_own_metric_texts_that_are_alike_are_recalled_and_told_from_others() -> None:
    model = open_model("embedding-384")
    values = load_dataset("sentences", "validation").pool(65)
    drawn = torch.nn.functional.normalize(0.4 * values[1:] + 0.6 * values[0], dim=1)
    stored, unseen = drawn[None, :32], drawn[None, 32:]
    frames = model.frames_of(model.fit_frames(stored, present=torch.ones(1, 32, dtype=torch.bool)))
    with torch.no_grad():
        fast = model.parameters.memories(1)
        for start in range(0, 32, 8):
            x = model.encode(stored[:, start : start + 8], frames)
            present = torch.ones(1, 8, dtype=torch.bool)
            fast = write(model.network, model.parameters, fast, x, present=present, stored=torch.tensor([start]))
        cues = [model.encode(one, frames) for one in (stored, unseen)]
        answers = model.decode(read(model.network, model.parameters, fast, cues[0]).pattern, frames)
        own, others = (delta_energy(model.network, model.parameters, fast, x) for x in cues)
    assert torch.equal(torch.cdist(answers, stored)[0].argmin(1), torch.arange(32))
    assert own.max() < others.min()
