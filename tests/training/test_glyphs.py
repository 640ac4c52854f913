"""The glyph images: split by character, and the same each time."""

import hashlib
import os
import subprocess
import sys
from itertools import combinations, pairwise

import numpy as np
import pytest

from attractor_server.errors import SettingsError
from attractor_server.training.datasets import load_dataset
from attractor_server.training.datasets.glyphs import SIDE, Split, _base, _families, _render_all, _split_of, glyphs

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

DIGEST = """
import hashlib
from attractor_server.training.datasets.glyphs import glyphs
for split in ("train", "validation", "test"):
    data = glyphs(split)
    print(hashlib.sha256(data.images.tobytes() + data.characters.tobytes()).hexdigest())
"""


def digest(split: Split) -> str:
    data = glyphs(split)
    return hashlib.sha256(data.images.tobytes() + data.characters.tobytes()).hexdigest()


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_two_splits_share_no_image(one: Split, other: Split) -> None:
    first, second = ({image.tobytes() for image in glyphs(split).images} for split in (one, other))
    assert first.isdisjoint(second)


def test_two_splits_share_no_character_nor_an_accented_form_of_one() -> None:
    home = {image.tobytes(): _split_of(root) for root, family in _families().items() for image in family}
    splits: dict[str, set[Split]] = {}
    for character, image in _render_all():
        splits.setdefault(_base(character), set()).add(home[image.tobytes()])
    assert len(splits) > 1000
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("split", SPLITS)
def test_no_image_comes_twice_within_a_split(split: Split) -> None:
    images = glyphs(split).images
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("split", SPLITS)
def test_glyphs_are_bright_on_dark_with_a_dark_margin(split: Split) -> None:
    images = glyphs(split).images
    assert images.shape[1:] == (SIDE, SIDE)
    assert images.max(axis=(1, 2)).min() > 64
    assert not images[:, [0, 1, -2, -1]].any()
    assert not images[:, :, [0, 1, -2, -1]].any()


@pytest.mark.parametrize("split", SPLITS)
def test_characters_are_numbered_without_gaps_in_order(split: Split) -> None:
    numbers = glyphs(split).characters
    assert set(numbers.tolist()) == set(range(int(numbers.max()) + 1))
    assert all(a <= b for a, b in pairwise(numbers.tolist()))


def test_another_process_renders_the_same_glyphs_in_the_same_order() -> None:
    command = [sys.executable, "-c", DIGEST]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert run.stdout.split() == [digest(split) for split in SPLITS]


def test_patterns_lie_between_dark_and_bright() -> None:
    patterns = load_dataset("glyphs", "validation").pool(10**6)
    assert patterns.shape[1] == SIDE * SIDE
    assert (patterns.min().item(), patterns.max().item()) == (0.0, 1.0)
    assert np.allclose(patterns[3].numpy() * 255, glyphs("validation").images[3].ravel())


def test_an_unknown_data_set_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"data\.name: saw 'faces'; expected one of .*'glyphs'"):
        load_dataset("faces", "train")
