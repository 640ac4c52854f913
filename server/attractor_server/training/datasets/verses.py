"""Verses of the Bible as vectors of 384 entries by two sentence encoders, each in four forms.

A whole verse is one of the World English Bible; its paraphrase is the same verse of the King James Version; there are
also the first half of its words, and the verse with typos. Both translations are in the public domain; `data/README.md`
says more. The splits have different books; no two whole verses have a cosine of 0.9 or more.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.datasets.samples import Samples, load_arrays

Form: TypeAlias = Literal["whole", "paraphrase", "half", "typos"]
FORMS: Sequence[Form] = ("whole", "paraphrase", "half", "typos")
CUE_FORMS: Sequence[Form] = FORMS[1:]
"""Forms in which somebody may ask for a whole verse"""

FILE, MPNET_FILE = "verse_embeddings.npz", "verse_embeddings_mpnet.npz"
SPLITS: Sequence[Split] = ("test", "validation", "train")
_BOOKS: Mapping[Split, Sequence[str]] = {
    "test": ("Judges", "Proverbs", "Amos", "John", "Romans", "Hebrews"),
    "validation": ("Ruth", "Esther", "Ecclesiastes", "Micah", "Galatians", "James"),
}
"""Stories, sayings, prophets, gospels and letters; the other books are for training"""


def book_split(book: str) -> Split:
    """Return the split of a book."""
    return next((split for split, books in _BOOKS.items() if book in books), "train")


@cache
def verses(split: Split, form: Form = "whole") -> Samples:
    """Return the vectors of all-MiniLM-L6-v2, (n, 384) of norm 1, row by row of the same verses in each form."""
    return _load(FILE, split, form)


@cache
def verses_by_mpnet(split: Split, form: Form = "whole") -> Samples:
    """Return the vectors of all-mpnet-base-v2, (n, 384) of norm 1: the first 384 of its 768 entries."""
    return _load(MPNET_FILE, split, form)


@cache
def places(split: Split, name: str = FILE) -> Sequence[tuple[str, int, int]]:
    """Return book, chapter and number of each verse of a split."""
    arrays = load_arrays(name)
    books = arrays["books"].tobytes().decode().split("\n")
    found = [(books[book], chapter, verse) for book, chapter, verse in arrays["places"].tolist()]
    return tuple(place for place in found if book_split(place[0]) == split)


def _load(name: str, split: Split, form: Form) -> Samples:
    arrays = load_arrays(name)
    books = arrays["books"].tobytes().decode().split("\n")
    chosen = [book_split(books[book]) == split for book in arrays["places"][:, 0]]
    levels = arrays[form][chosen].astype(np.float32)
    vectors: NDArray[np.float32] = levels / np.linalg.norm(levels, axis=1, keepdims=True)
    return Samples(vectors, np.arange(len(vectors), dtype=np.int64))
