"""Real English sentences, as vectors of 384 entries by two sentence encoders, and by another method.

They are quotations of Debian's `fortunes` (BSD) and examples of use in WordNet 3.0 (its own, permissive licence);
`data/README.md` says more. They are split by source (one quotation, one meaning of a word), the class; no two
sentences have a cosine of 0.9 or more.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.datasets.samples import Samples, classes_of, load_arrays, split_of

ENTRIES = 384


@cache
def texts(split: Split) -> Sequence[str]:
    """Return the sentences of a split, of 40 to 200 characters, in the order of their vectors."""
    chosen = _choose(split).tolist()
    return tuple(all_texts()[number] for number in chosen)


@cache
def sentences(split: Split) -> Samples:
    """Return the vectors of all-MiniLM-L6-v2, (n, 384) of norm 1; the class is the source text of a sentence."""
    return _load_embeddings("sentence_embeddings.npz", split)


@cache
def sentences_by_mpnet(split: Split) -> Samples:
    """Return the vectors of all-mpnet-base-v2, (n, 384) of norm 1: the first 384 of its 768 entries."""
    return _load_embeddings("sentence_embeddings_mpnet.npz", split)


@cache
def sentences_by_analysis(split: Split) -> Samples:
    """Return vectors by latent semantic analysis, (n, 384) of norm 1: words and triples of letters, projected.

    Vocabulary and projection come from the sentences of the training split.
    """
    return _load_embeddings("sentence_embeddings_lsa.npz", split)


@cache
def classes(split: Split) -> NDArray[np.int64]:
    """Return for each sentence of a split the number of the text it is taken from, ascending."""
    return classes_of(_load_sources()[_choose(split)].tolist())


def _load_embeddings(name: str, split: Split) -> Samples:
    levels = load_arrays(name)["levels"][_choose(split)]
    return Samples(_normalise(levels.astype(np.float32)), classes(split))


def _normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / norms


@cache
def _choose(split: Split) -> NDArray[np.int64]:
    """Return the numbers of a split's sentences among all."""
    return np.array([n for n, source in enumerate(_load_sources().tolist()) if split_of(f"sentence {source}") == split])


@cache
def all_texts() -> Sequence[str]:
    """Return the sentences of all splits, in the order of the files."""
    return load_arrays("sentence_texts.npz")["texts"].tobytes().decode().split("\n")


@cache
def _load_sources() -> NDArray[np.integer]:
    return load_arrays("sentence_texts.npz")["sources"]
