"""Lines of 64 characters, cut from the sentences of `sentences` at the beginnings of words.

They are split like the sentences, without the few validation or test sentences that share 32 characters in a row
with an earlier split. Lines of one source are of one class, since they overlap.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets import sentences
from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.datasets.samples import Samples, classes_of

ALPHABET = " abcdefghijklmnopqrstuvwxyz.,'-?!;:\""
LENGTH = 64
_LEAST_LENGTH = 54
_STRIDE = 12
_SHARED = 32
_BEFORE: dict[Split, Sequence[Split]] = {"train": (), "validation": ("train",), "test": ("train", "validation")}


@cache
def short_texts(split: Split) -> Samples:
    """Return lines (n, 64) as positions in `ALPHABET`, 0 to 35; short ones are padded with spaces."""
    known: set[str] = set().union(*map(_runs, _BEFORE[split]))
    found = [
        (source, line)
        for source, text in zip(sentences.classes(split).tolist(), _plain(split), strict=True)
        if known.isdisjoint(_runs_of(text))
        for line in _lines(text)
    ]
    return Samples(np.stack([encode(line) for _, line in found]), classes_of([source for source, _ in found]))


def encode(line: str) -> NDArray[np.float32]:
    """Return at most 64 characters of the alphabet as positions (64,) in it, padded with spaces."""
    return np.array([ALPHABET.index(character) for character in line.ljust(LENGTH)], np.float32)


def decode(positions: NDArray[np.float32]) -> str:
    """Return the line of these positions, each rounded to the nearest that there is."""
    nearest = np.clip(np.rint(positions), 0, len(ALPHABET) - 1).astype(int)
    return "".join(ALPHABET[position] for position in nearest).rstrip()


@cache
def _plain(split: Split) -> Sequence[str]:
    """Return the sentences of a split in the alphabet's characters alone."""
    kept = ("".join(c for c in text.lower() if c in ALPHABET) for text in sentences.texts(split))
    return [" ".join(text.split()) for text in kept]


@cache
def _runs(split: Split) -> frozenset[str]:
    return frozenset(run for text in _plain(split) for run in _runs_of(text))


def _runs_of(text: str) -> Iterator[str]:
    """Yield each run of 32 characters."""
    return (text[begin : begin + _SHARED] for begin in range(len(text) - _SHARED + 1))


def _lines(plain: str) -> Iterator[str]:
    """Yield lines of 54 to 64 characters, each beginning 12 or more after the one before it, none twice."""
    begin = 0
    while len(plain) - begin >= _LEAST_LENGTH:
        yield plain[begin : begin + LENGTH].rstrip()
        space = plain.find(" ", begin + _STRIDE)
        if space < 0:
            return
        begin = space + 1
