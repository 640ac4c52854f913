"""Texts of the user to places in a field's alphabet, and back."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attractor._errors import InvalidRequest

MISSING = "\N{REPLACEMENT CHARACTER}"
"""Stands in a cue for a character that nobody knows."""
MISSING_PLACE = 255


def texts_in(given: object) -> str | list[str] | None:
    """The text, or texts, that were given; None if they are something else."""
    if isinstance(given, np.ndarray) and given.dtype.kind == "U":
        given = given.tolist()
    if isinstance(given, str):
        return given
    if isinstance(given, list | tuple) and given and all(isinstance(text, str) for text in given):
        return list(given)
    return None


def places(texts: str | list[str], alphabet: str, length: int, where: str, *, partial: bool) -> NDArray[np.uint8]:
    """For each character its place in the alphabet, (length,) of one text and (texts, length) of several.

    What is shorter is filled up with spaces; `partial` texts may have `MISSING` characters.

    Raises:
        InvalidRequest: a text is too long, or has characters beyond the alphabet.
    """
    if isinstance(texts, str):
        return _places([texts], alphabet, length, where, partial=partial).reshape(length)
    return _places(texts, alphabet, length, where, partial=partial)


def places_of_numbers(numbers: NDArray[np.generic], alphabet: str, where: str, *, partial: bool) -> NDArray[np.uint8]:
    """Places that came as numbers of any kind, NaN where a character is missing.

    Raises:
        InvalidRequest: there are others than places in the alphabet.
    """
    if numbers.dtype.kind not in "iuf":
        expected = "a str, a list of them, or places in the alphabet as numbers"
        raise InvalidRequest.of(where, f"saw dtype {numbers.dtype.name}; expected {expected}")
    values = numbers.astype(np.float64)
    missing = np.isnan(values) | (values == MISSING_PLACE if numbers.dtype == np.uint8 else False)
    if missing.any() and not partial:
        raise InvalidRequest.of(where, "saw a missing character; expected whole texts where they are stored")
    given = values[~missing]
    if ((given < 0) | (given >= len(alphabet)) | (given != np.floor(given))).any():
        seen = f"saw numbers from {given.min():g} to {given.max():g}"
        raise InvalidRequest.of(where, f"{seen}; expected whole ones from 0 to {len(alphabet) - 1}")
    return np.where(missing, MISSING_PLACE, values).astype(np.uint8)


def strings(numbers: "NDArray[np.float32]", alphabet: str) -> str | list[str]:
    """The text of places (length,), or the texts of (texts, length), without the spaces at their ends."""
    if numbers.ndim > 1:
        return [_string(row, alphabet) for row in numbers]
    return _string(numbers, alphabet)


def _string(numbers: "NDArray[np.float32]", alphabet: str) -> str:
    return "".join(alphabet[int(number)] for number in numbers.ravel()).rstrip(" ")


def _places(texts: Sequence[str], alphabet: str, length: int, where: str, *, partial: bool) -> NDArray[np.uint8]:
    by_character = {character: place for place, character in enumerate(alphabet)}
    if partial:
        by_character.setdefault(MISSING, MISSING_PLACE)
    rows = []
    for text in texts:
        if len(text) > length or (len(text) < length and " " not in by_character):
            exactly = "at most" if " " in by_character else "exactly"
            raise InvalidRequest.of(where, f"saw {len(text)} characters; expected {exactly} {length}")
        if strange := sorted({*text} - by_character.keys()):
            raise InvalidRequest.of(where, f"saw the character {strange[0]!r}; expected those of {alphabet!r}")
        rows.append([by_character[character] for character in text.ljust(length)])
    return np.array(rows, np.uint8)
