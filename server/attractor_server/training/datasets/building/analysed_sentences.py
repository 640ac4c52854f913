"""Analyse the sentences that were chosen by their words and letters, and write `sentence_embeddings_lsa.npz`.

pip install 'attractor[data]'
python -m attractor_server.training.datasets.building.analysed_sentences

Half a minute on one core. The last bits of the projection depend on the processor; that is why its result is kept.
"""

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets.samples import DATA
from attractor_server.training.datasets.sentences import ENTRIES, all_texts, texts

_WORDS, _TRIPLES = 12_000, 8_000


def main() -> None:
    """Write the file anew."""
    write(_analyse())


def write(vectors: NDArray[np.float32]) -> None:
    """Write vectors (n, entries) as bytes."""
    scales = np.abs(vectors).max(axis=1, keepdims=True) / 127
    levels = np.rint(vectors / scales).astype(np.int8)
    np.savez_compressed(DATA / "sentence_embeddings_lsa.npz", levels=levels)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(levels.astype(np.float32), axis=1)
    cosines = (vectors * levels).sum(axis=1) / norms
    print(f"{len(levels)} sentences; cosine to the exact vector {cosines.mean():.5f}, at least {cosines.min():.5f}")


def _analyse() -> NDArray[np.float32]:
    """Return the vectors of all sentences; vocabulary and projection come from those of the training split."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(min_df=2, max_features=_WORDS, sublinear_tf=True, dtype=np.float32)
    letters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 3), max_features=_TRIPLES, sublinear_tf=True, dtype=np.float32
    )
    analysis = make_pipeline(make_union(words, letters), TruncatedSVD(ENTRIES, n_iter=2, random_state=0))
    analysis.fit(texts("train"))
    return np.asarray(analysis.transform(all_texts()), np.float32)


if __name__ == "__main__":
    main()
