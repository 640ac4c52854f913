"""The data sets that need no download: in the units said, split apart, and the same each time."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch

from attractor_server.training.datasets import audio_format
from attractor_server.training.datasets.digits import digits, large_digits
from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.datasets.patches import SHAPE, patches
from attractor_server.training.datasets.random_signs import RandomSigns
from attractor_server.training.datasets.registry import load_dataset
from attractor_server.training.datasets.samples import Samples
from attractor_server.training.datasets.sentences import (
    ENTRIES,
    sentences,
    sentences_by_analysis,
    sentences_by_mpnet,
    texts,
)
from attractor_server.training.datasets.short_texts import ALPHABET, LENGTH, decode, encode, short_texts
from attractor_server.training.datasets.speech import FRAMES, speech
from attractor_server.training.datasets.verses import CUE_FORMS, MPNET_FILE, places, verses, verses_by_mpnet

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
PAIRS = list(combinations(SPLITS, 2))

# By name: the data set, the entries of a sample, the least and greatest value, and the samples at least to train with.
DATASETS: dict[str, tuple[Callable[[Split], Samples], int, float, float, int]] = {
    "sentences": (sentences, ENTRIES, -1, 1, 7500),
    "sentences_by_mpnet": (sentences_by_mpnet, ENTRIES, -1, 1, 7500),
    "sentences_by_analysis": (sentences_by_analysis, ENTRIES, -1, 1, 7500),
    "verses": (verses, ENTRIES, -1, 1, 2400),
    "verses_by_mpnet": (verses_by_mpnet, ENTRIES, -1, 1, 150),
    "patches": (patches, 3072, 0, 1, 4000),
    "short_texts": (short_texts, LENGTH, 0, len(ALPHABET) - 1, 8000),
    "speech": (speech, FRAMES * audio_format.MELS, audio_format.FLOOR_DB, audio_format.CEILING_DB, 2500),
    "digits": (digits, 64, 0, 1, 1400),
    "large_digits": (large_digits, 784, 0, 1, 1400),
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


def digests() -> list[str]:
    return [digest(function("test")) for function, *_ in DATASETS.values()]


def digests_elsewhere(**environment: str) -> list[str]:
    """In another process, whose environment differs in these variables."""
    names = [f"{function.__module__}.{function.__name__}" for function, *_ in DATASETS.values()]
    command = [sys.executable, "-c", DIGEST, *names]
    variables = {**os.environ, **environment}
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=variables)
    return run.stdout.split()


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
    assert digests_elsewhere(PYTHONHASHSEED="7") == digests()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the kernels named are those of x86")
@pytest.mark.parametrize("kernel", ["Haswell", "Sandybridge"])
def test_samples_do_not_depend_on_the_processor(kernel: str) -> None:
    assert digests_elsewhere(OPENBLAS_CORETYPE=kernel) == digests()


@each_split
def test_a_sentence_is_a_vector_of_norm_one_by_each_method(split: Split) -> None:
    for source in (sentences, sentences_by_mpnet, sentences_by_analysis):
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


@pytest.mark.parametrize(("other", "most"), [(sentences_by_mpnet, 0.95), (sentences_by_analysis, 0.8)])
def test_other_methods_see_other_likenesses_than_the_first(other: Callable[[Split], Samples], most: float) -> None:
    vectors, others = sentences("test").values, other("test").values
    pairs = np.triu_indices(len(vectors), 1)
    agreement = np.corrcoef((vectors @ vectors.T)[pairs], (others @ others.T)[pairs])[0, 1]
    assert 0.1 < agreement < most


VERSES = pytest.mark.parametrize("load", [verses, verses_by_mpnet])


@VERSES
@each_split
def test_a_verse_is_a_vector_of_norm_one_nearer_to_its_own_forms_than_to_other_verses(
    load: Callable[..., Samples], split: Split
) -> None:
    whole = load(split).values
    for form in CUE_FORMS:
        others = load(split, form).values
        assert others.shape == whole.shape
        assert np.allclose(np.linalg.norm(others, axis=1), 1, atol=1e-5)
        likeness = others @ whole.T
        assert np.median(np.diag(likeness)) > 0.7 > 2 * np.median(likeness)
        assert (likeness.argmax(axis=1) == np.arange(len(whole))).mean() > 0.8
    assert np.triu(whole @ whole.T, 1).max() < 0.91


def test_verses_are_of_all_books_and_those_of_one_are_in_one_split() -> None:
    books = {split: {book for book, _, _ in places(split)} for split in SPLITS}
    assert sum(map(len, books.values())) == len(set.union(*books.values())) == 66
    assert all(len(set(places(split))) == len(places(split)) == len(verses(split).values) for split in SPLITS)
    assert len(verses("test").values) > 1024
    assert all(set(places(split, MPNET_FILE)) < set(places(split)) for split in SPLITS)


@pytest.mark.parametrize("name", ["sentences", "sentences-mpnet", "verses", "verses-mpnet"])
def test_embeddings_come_with_the_drifts_of_their_own_split_and_encoder(name: str) -> None:
    forms = verses_by_mpnet if name.endswith("mpnet") else verses
    for split in ("validation", "test"):
        drifts = load_dataset(name, split).drifts
        assert drifts is not None
        cosines = [(forms(split).values * forms(split, form).values).sum(1) for form in CUE_FORMS]
        assert np.allclose(drifts.norm(dim=1).cos().numpy(), np.concatenate(cosines), atol=1e-3)
    assert load_dataset("sentences-lsa", "validation").drifts is None


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


def test_patches_that_overlap_are_of_one_class() -> None:
    """Their common columns are equal, pixel by pixel."""
    samples = patches("train")
    images = samples.values.reshape(-1, *SHAPE)
    right = {half.tobytes(): number for number, half in enumerate(images[:, :, 16:].copy()) if half.std() > 0.01}
    pairs = [(right.get(half.tobytes()), number) for number, half in enumerate(images[:, :, :16].copy())]
    overlapping = [(one, other) for one, other in pairs if one is not None]
    assert len(overlapping) > 1000
    assert all(samples.classes[one] == samples.classes[other] for one, other in overlapping)


@each_split
def test_patches_are_of_things_with_colours_and_not_flat(split: Split) -> None:
    images = patches(split).values.reshape(-1, *SHAPE)
    assert (images.std(axis=(1, 2)).mean(axis=1) > 0.04).all()
    assert np.abs(np.diff(images, axis=-1)).mean() > 0.03
    neighbours = np.abs(np.diff(images, axis=2)).mean()
    assert neighbours < np.abs(images - images[:, :, ::-1]).mean() / 2


def test_patches_to_test_with_are_not_found_in_what_is_trained_on() -> None:
    trained, tested = (
        {piece.tobytes() for piece in patches(split).values.reshape(-1, *SHAPE)[:, ::16, ::16].reshape(-1, 12)}
        for split in ("train", "test")
    )
    assert trained.isdisjoint(tested)


@each_split
def test_short_texts_are_lines_of_the_sentences_and_nearly_full(split: Split) -> None:
    lines = [decode(row) for row in short_texts(split).values]
    assert sum(LENGTH - len(line) for line in lines) < 0.15 * LENGTH * len(lines)
    known = ["".join(c for c in text.lower() if c in ALPHABET) for text in texts(split)]
    whole = " ".join(" ".join(known).split())
    assert all(line in whole for line in lines)
    assert len(ALPHABET) == len(set(ALPHABET)) <= 40


@each_pair
def test_two_splits_share_no_half_of_a_line(one: Split, other: Split) -> None:
    lines, others = ({decode(row) for row in short_texts(split).values} for split in (one, other))
    known = {line[begin : begin + 32] for line in lines for begin in range(len(line) - 31)}
    assert known.isdisjoint(line[begin : begin + 32] for line in others for begin in range(len(line) - 31))


def test_a_line_comes_back_from_its_positions_even_when_they_are_a_little_off() -> None:
    line = 'she said: "well; is it so?" - no, it isn\'t!'
    assert decode(encode(line)) == line
    assert decode(encode(line) + np.float32(0.4)) == line
    with pytest.raises(ValueError, match="substring not found"):
        encode("É")


@pytest.mark.parametrize("band", [3, 12, 25, 36])
def test_a_sine_is_loudest_in_the_band_around_its_frequency(band: int) -> None:
    bins = np.fft.rfftfreq(audio_format.TRANSFORM_SAMPLES, 1 / audio_format.SAMPLE_RATE_HZ)
    frequency = bins[audio_format.mel_filters()[band].argmax()]
    time_s = np.arange(audio_format.samples_of(FRAMES)) / audio_format.SAMPLE_RATE_HZ
    frames = audio_format.log_mel(np.sin(2 * np.pi * frequency * time_s).astype(np.float32))
    assert frames.shape == (FRAMES, audio_format.MELS)
    assert (np.abs(frames.argmax(axis=1) - band) <= 1).all()
    assert frames.max() > -4


def test_ten_times_the_amplitude_is_twenty_decibels_and_silence_is_the_floor() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, audio_format.samples_of(FRAMES)).astype(np.float32)
    assert np.allclose(audio_format.log_mel(noise * 10) - audio_format.log_mel(noise), 20, atol=1e-3)
    assert (audio_format.log_mel(noise * 0) == audio_format.FLOOR_DB).all()


@each_split
def test_speech_goes_on_from_frame_to_frame_and_is_no_silence(split: Split) -> None:
    clips = speech(split).values.reshape(-1, FRAMES, audio_format.MELS)
    assert (clips.max(axis=2) > -45).mean(axis=1).min() > 0.5
    assert np.abs(np.diff(clips, axis=1)).mean() < np.abs(clips[:, :16] - clips[:, 16:]).mean() * 0.7


def test_large_digits_are_the_digits_between_their_corners() -> None:
    small, large = digits("test").values.reshape(-1, 8, 8), large_digits("test").values.reshape(-1, 28, 28)
    assert np.allclose(large[:, ::27, ::27], small[:, ::7, ::7], atol=1e-5)
    assert np.allclose(large.mean(axis=(1, 2)), small.mean(axis=(1, 2)), atol=0.1)
