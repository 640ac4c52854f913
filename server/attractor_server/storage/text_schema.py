"""Tables of the words that items are found by, in each database's own full-text index."""

from collections.abc import Mapping, Sequence

from attractor_server.storage.database import Cursor

_TEXTS = """CREATE TABLE texts (
    id {identity},
    content {integer} NOT NULL,
    version {integer} NOT NULL,
    place {integer} NOT NULL,
    family {integer} NOT NULL,
    length {integer} NOT NULL,
    body TEXT NOT NULL,
    {index}FOREIGN KEY (content, version) REFERENCES entries ON DELETE CASCADE
){strict}"""
"""Words of an entry's items, each behind the family of the memories that have the content: the index of a family is its
own. Derived from the entries."""

_BY_PLACE = "CREATE UNIQUE INDEX texts_by_place ON texts (content, version, place, length)"

_SQLITE: Sequence[str] = (
    _TEXTS.replace("{index}", ""),
    _BY_PLACE,
    """CREATE VIRTUAL TABLE words
        USING fts5 (body, content = 'texts', content_rowid = 'id', tokenize = 'ascii', columnsize = 0)""",
    "INSERT INTO words (words, rank) VALUES ('secure-delete', 1)",
    "CREATE VIRTUAL TABLE word_places USING fts5vocab (words, instance)",
    """CREATE TRIGGER index_words AFTER INSERT ON texts
        BEGIN INSERT INTO words (rowid, body) VALUES (new.id, new.body); END""",
    """CREATE TRIGGER forget_words AFTER DELETE ON texts
        BEGIN INSERT INTO words (words, rowid, body) VALUES ('delete', old.id, old.body); END""",
)

_POSTGRES: Sequence[str] = (
    _TEXTS.replace(
        "{index}", "words TSVECTOR NOT NULL GENERATED ALWAYS AS (to_tsvector('simple', body)) STORED,\n    "
    ),
    _BY_PLACE,
    "CREATE INDEX words ON texts USING gin (words)",
)

SQLITE_FIND = (
    "SELECT pages.number, texts.version, texts.place, texts.length, count(*) FROM word_places "
    "CROSS JOIN texts ON texts.id = word_places.doc CROSS JOIN pages ON pages.content = texts.content "
    "WHERE word_places.term = ? AND +pages.memory = ? GROUP BY texts.id, pages.number"
)

POSTGRES_FIND = (
    "WITH asked AS (SELECT CAST(? AS TEXT) AS word) "
    "SELECT pages.number, texts.version, texts.place, texts.length, cardinality(found.positions) FROM asked "
    "JOIN texts ON texts.words @@ CAST(quote_literal(asked.word) AS TSQUERY) "
    "JOIN pages ON pages.content = texts.content CROSS JOIN LATERAL unnest(texts.words) AS found "
    "WHERE found.lexeme = asked.word AND pages.memory = ?"
)
"""Where the texts of a memory have a word"""


def text_tables(words: Mapping[str, str]) -> Sequence[str]:
    """Return the statements that make the tables, with a database's words for the types."""
    return [one.format_map(words) for one in (_SQLITE if words["text"] == "TEXT" else _POSTGRES)]


def add_texts(cursor: Cursor, words: Mapping[str, str]) -> None:
    """Add the tables, with nothing in them: before format 6 no item had a text."""
    for statement in text_tables(words):
        cursor.execute(statement)
