"""Texts as indices into a field's alphabet, and back."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attractor._errors import InvalidRequest

MISSING = "\N{REPLACEMENT CHARACTER}"
"""Stands in a cue for a missing character."""
MISSING_INDEX = 255


def find_texts(given: object) -> str | list[str] | None:
    """Return the text or texts, or None if it is something else."""
    if isinstance(given, np.ndarray) and given.dtype.kind == "U":
        given = given.tolist()
    if isinstance(given, str):
        return given
    if isinstance(given, list | tuple) and given and all(isinstance(text, str) for text in given):
        return list(given)
    return None


def encode_texts(texts: str | list[str], alphabet: str, length: int, where: str, *, partial: bool) -> NDArray[np.uint8]:
    """Return the index of each character in the alphabet: (length,) for one text, (texts, length) for several.

    Shorter texts are filled up with spaces; `partial` texts may have `MISSING` characters.

    Raises:
        InvalidRequest: a text is too long, or has characters beyond the alphabet.
    """
    if isinstance(texts, str):
        return _encode_rows([texts], alphabet, length, where, partial=partial).reshape(length)
    return _encode_rows(texts, alphabet, length, where, partial=partial)


def check_indices(numbers: NDArray[np.generic], alphabet: str, where: str, *, partial: bool) -> NDArray[np.uint8]:
    """Return indices that came as numbers of any dtype, NaN where a character is missing.

    Raises:
        InvalidRequest: there are others than indices into the alphabet.
    """
    if numbers.dtype.kind not in "iuf":
        expected = "a str, a list of them, or places in the alphabet as numbers"
        raise InvalidRequest.of(where, f"saw dtype {numbers.dtype.name}; expected {expected}")
    values = numbers.astype(np.float64)
    missing = np.isnan(values) | (values == MISSING_INDEX if numbers.dtype == np.uint8 else False)
    if missing.any() and not partial:
        raise InvalidRequest.of(where, "saw a missing character; expected whole texts where they are stored")
    given = values[~missing]
    if ((given < 0) | (given >= len(alphabet)) | (given != np.floor(given))).any():
        seen = f"saw numbers from {given.min():g} to {given.max():g}"
        raise InvalidRequest.of(where, f"{seen}; expected whole ones from 0 to {len(alphabet) - 1}")
    return np.where(missing, MISSING_INDEX, values).astype(np.uint8)


def decode_texts(indices: "NDArray[np.float32]", alphabet: str) -> str | list[str]:
    """Return the text of indices (length,), or the texts of (texts, length), without the spaces at their ends."""
    if indices.ndim > 1:
        return [_decode_row(row, alphabet) for row in indices]
    return _decode_row(indices, alphabet)


def _decode_row(indices: "NDArray[np.float32]", alphabet: str) -> str:
    return "".join(alphabet[int(index)] for index in indices.ravel()).rstrip(" ")


def _encode_rows(texts: Sequence[str], alphabet: str, length: int, where: str, *, partial: bool) -> NDArray[np.uint8]:
    by_character = {character: index for index, character in enumerate(alphabet)}
    if partial:
        by_character.setdefault(MISSING, MISSING_INDEX)
    rows = []
    for text in texts:
        if len(text) > length or (len(text) < length and " " not in by_character):
            exactly = "at most" if " " in by_character else "exactly"
            raise InvalidRequest.of(where, f"saw {len(text)} characters; expected {exactly} {length}")
        if strange := sorted({*text} - by_character.keys()):
            raise InvalidRequest.of(where, f"saw the character {strange[0]!r}; expected those of {alphabet!r}")
        rows.append([by_character[character] for character in text.ljust(length)])
    return np.array(rows, np.uint8)
