"""Rows of items' texts, as the full-text index of the database has them. Entries have the texts themselves."""

from collections.abc import Sequence

from attractor_server.memories.items import ItemPlace
from attractor_server.memories.records import Entry, Item
from attractor_server.memories.words import Occurrences, split_words
from attractor_server.storage.database import Cursor, Row

_ADD = "INSERT INTO texts (content, version, place, family, length, body) VALUES (?, ?, ?, ?, ?, ?)"


def has_texts(entry: Entry) -> bool:
    """Return whether the entry has items that are found by words."""
    return any(item.text for item in entry.items)


def describe(items: Sequence[Item]) -> Sequence[tuple[int, Sequence[str]]]:
    """Return the place and the words of those items of an entry that have a text."""
    return [(place, split_words(item.text)) for place, item in enumerate(items) if item.text]


def join_words(family: int, words: Sequence[str]) -> str:
    """Return words as the index has them: each behind its family."""
    return " ".join([_mark(family, word) for word in words])


def _mark(family: int, word: str) -> str:
    return f"w{family}x{word}"


def add(cursor: Cursor, entries: Sequence[tuple[int, int, Entry]]) -> None:
    """Add the rows of entries, each with the number of its contents and a family."""
    rows: list[Row] = [
        (content, entry.version, place, family, len(words), join_words(family, words))
        for content, family, entry in entries
        for place, words in describe(entry.items)
    ]
    if rows:
        cursor.executemany(_ADD, rows)


def copy(cursor: Cursor, old: int, new: int) -> None:
    """Give new contents the rows of old ones, whose entries they have."""
    cursor.execute(
        "INSERT INTO texts (content, version, place, family, length, body) "
        "SELECT CAST(? AS BIGINT), version, place, family, length, body FROM texts WHERE content = ?",
        (new, old),
    )


def count(cursor: Cursor, memory: int) -> tuple[int, int]:
    """Return how many texts a memory has, and how many words are in them."""
    texts, words = cursor.execute(
        "SELECT count(*), CAST(coalesce(sum(texts.length), 0) AS BIGINT) FROM pages "
        "JOIN texts ON texts.content = pages.content WHERE pages.memory = ?",
        (memory,),
    ).fetchone()
    return int(texts), int(words)


def find(cursor: Cursor, statement: str, memory: int, family: int, word: str) -> Sequence[Occurrences]:
    """Return where a memory's texts have a word, by the database's statement for that."""
    rows = cursor.execute(statement, (_mark(family, word), memory)).fetchall()
    return [
        Occurrences(ItemPlace(number, version, place), length, times) for number, version, place, length, times in rows
    ]
