"""The data sets that need no download: in the units said, split apart, and the same each time."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch

from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.datasets.random_signs import RandomSigns
from attractor_server.training.datasets.samples import Samples
from attractor_server.training.datasets.sentences import ENTRIES, other_sentences, sentences, texts

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
PAIRS = list(combinations(SPLITS, 2))

# By name: the data set, the entries of a sample, the least and greatest value, and the samples at least to train with.
DATASETS: dict[str, tuple[Callable[[Split], Samples], int, float, float, int]] = {
    "sentences": (sentences, ENTRIES, -1, 1, 7500),
    "other_sentences": (other_sentences, ENTRIES, -1, 1, 7500),
}
each_dataset = pytest.mark.parametrize("name", DATASETS)
each_split = pytest.mark.parametrize("split", SPLITS)
each_pair = pytest.mark.parametrize(("one", "other"), PAIRS)

DIGEST = """
import hashlib, importlib, sys
for name in sys.argv[1:]:
    module, _, function = name.rpartition(".")
    data = getattr(importlib.import_module(module), function)("test")
    print(hashlib.sha256(data.values.tobytes() + data.classes.tobytes()).hexdigest())
"""


def digest(samples: Samples) -> str:
    return hashlib.sha256(samples.values.tobytes() + samples.classes.tobytes()).hexdigest()


@each_split
@each_dataset
def test_samples_have_the_shape_and_the_range_that_is_said(name: str, split: Split) -> None:
    function, entries, least, greatest, count = DATASETS[name]
    values = function(split).values
    assert values.dtype == np.float32
    assert values.shape[1:] == (entries,)
    assert len(values) >= (count if split == "train" else count // 20)
    assert np.isfinite(values).all()
    assert least <= values.min() < values.max() <= greatest
    assert (values.std(axis=1) > 0).all()


@each_split
@each_dataset
def test_classes_are_numbered_without_gaps_in_order(name: str, split: Split) -> None:
    samples = DATASETS[name][0](split)
    assert samples.classes.dtype == np.int64
    assert len(samples.classes) == len(samples.values)
    assert samples.classes[0] == 0
    assert np.isin(np.diff(samples.classes), (0, 1)).all()
    assert samples.classes[-1] >= 60


@each_pair
@each_dataset
def test_two_splits_share_no_sample(name: str, one: Split, other: Split) -> None:
    first, second = ({row.tobytes() for row in DATASETS[name][0](split).values} for split in (one, other))
    assert first.isdisjoint(second)


def test_another_process_gives_the_same_samples_in_the_same_order() -> None:
    functions = [entry[0] for entry in DATASETS.values()]
    names = [f"{function.__module__}.{function.__name__}" for function in functions]
    command = [sys.executable, "-c", DIGEST, *names]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env={"PYTHONHASHSEED": "7"})
    assert run.stdout.split() == [digest(function("test")) for function in functions]


@each_split
def test_a_sentence_is_a_vector_of_norm_one_by_either_method(split: Split) -> None:
    for source in (sentences, other_sentences):
        assert np.allclose(np.linalg.norm(source(split).values, axis=1), 1, atol=1e-5)
        assert len(source(split).values) == len(texts(split))


@each_split
def test_no_sentence_comes_twice_and_each_is_prose(split: Split) -> None:
    assert len(set(texts(split))) == len(texts(split))
    assert all(40 <= len(text) <= 200 and " " in text and text.isascii() for text in texts(split))


@each_pair
def test_two_splits_share_no_sentence_and_none_that_means_the_same(one: Split, other: Split) -> None:
    assert set(texts(one)).isdisjoint(texts(other))
    assert (sentences(one).values @ sentences(other).values.T).max() < 0.91


def test_embeddings_know_what_a_sentence_is_about() -> None:
    vectors, about = sentences("train").values, ["music" in text for text in texts("train")]
    likeness = vectors @ vectors[about].mean(axis=0)
    assert likeness[about].mean() > likeness.mean() + 2 * likeness.std()


def test_the_second_method_sees_other_likenesses_than_the_first() -> None:
    vectors, others = sentences("test").values, other_sentences("test").values
    pairs = np.triu_indices(len(vectors), 1)
    agreement = np.corrcoef((vectors @ vectors.T)[pairs], (others @ others.T)[pairs])[0, 1]
    assert 0.1 < agreement < 0.8


def test_random_signs_are_signs_without_preference_and_follow_the_generator() -> None:
    def draw(seed: int) -> torch.Tensor:
        return RandomSigns(48).sample(20, 30, torch.Generator().manual_seed(seed))

    signs = draw(0)
    assert signs.shape == (20, 30, 48)
    assert signs.dtype == torch.float32
    assert (signs.abs() == 1).all()
    assert abs(signs.mean().item()) < 0.03
    assert torch.equal(signs, draw(0))
    assert not torch.equal(signs, draw(1))
