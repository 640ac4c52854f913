"""Words of texts, as items are found by, and how well a text fits some: BM25."""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from attractor_server.memories.items import ItemPlace

QUERY_LIMIT: Final = 64
"""Different words of a search, at most; those behind them are left out"""

WORD_LIMIT: Final = 64
"""Characters of a word that are told apart"""

_SATURATION: Final = 1.2
"""k₁: how soon one more occurrence of a word counts no more"""

_BY_LENGTH: Final = 0.75
"""b: how much a long text has to have more of them"""

_MARKS = re.compile("[\u0300-\u036f]")
"""Accents of Latin, Greek and Cyrillic letters, apart from these"""

_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Japanese and Chinese, which have no spaces between words: each sign is one"""

_WORDS = re.compile(f"[{_SIGNS}]|[^\\W_{_SIGNS}]+")


class Occurrences(NamedTuple):
    """Occurrences of a word in an item's text."""

    place: ItemPlace
    length: int
    """Words of that text"""
    times: int


def split_words(text: str) -> Sequence[str]:
    """Return the words of a text: letters and digits, in lower case and without accents."""
    plain = _MARKS.sub("", unicodedata.normalize("NFKD", text))
    return [word[:WORD_LIMIT] for word in _WORDS.findall(unicodedata.normalize("NFC", plain.casefold()))]


def grade_texts(found: Sequence[Sequence[Occurrences]], texts: int, words: int) -> Mapping[ItemPlace, float]:
    """Return how well texts fit some words by BM25, of those that have any.

    Args:
        found: Of each of the words.
        texts: How many texts there are.
        words: How many words there are in all of them.
    """
    grades: dict[ItemPlace, float] = defaultdict(float)
    average = max(1.0, words / max(1, texts))
    for places in found:
        rarity = math.log(1 + (max(0, texts - len(places)) + 0.5) / (len(places) + 0.5))
        for place, length, times in places:
            damped = times + _SATURATION * (1 - _BY_LENGTH + _BY_LENGTH * length / average)
            grades[place] += rarity * times * (_SATURATION + 1) / damped
    return grades
