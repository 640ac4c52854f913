"""Words of texts, and how well a text fits some."""

import pytest

from attractor_server.memories.items import ItemPlace
from attractor_server.memories.words import Occurrences, grade_texts, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada's flight, on Tuesday!", ["ada", "s", "flight", "on", "tuesday"]),
        ("Café CAFÉ cafe\u0301", ["cafe", "cafe", "cafe"]),
        ("Straße 12_34 x\0y", ["strasse", "12", "34", "x", "y"]),
        ("東京へ行く", ["東", "京", "へ", "行", "く"]),
        ("日本 2024", ["日", "本", "2024"]),
        (" … ", []),
        ("a" * 99, ["a" * 64]),
    ],
)
def test_a_text_is_split_into_words_without_case_and_accents(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_rare_words_short_texts_and_repeated_words_count_for_more() -> None:
    short, long, twice = (ItemPlace(0, 1, row) for row in range(3))
    rare = [Occurrences(short, 4, 1)]
    common = [Occurrences(short, 4, 1), Occurrences(long, 40, 1), Occurrences(twice, 4, 2)]
    grades = grade_texts([common], 10, 100)
    assert grades[twice] > grades[short] > grades[long] > 0
    assert grade_texts([rare], 10, 100)[short] > grades[short]
    assert grade_texts([rare, common], 10, 100)[short] == pytest.approx(
        grade_texts([rare], 10, 100)[short] + grades[short]
    )
    assert grade_texts([], 0, 0) == {}
