"""The tables of the backend store, and how each format came from the one before."""

import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import apsw

from attractor_server.memories.memory import KNOWN_CLIENTS
from attractor_server.memories.records import checksum
from attractor_server.sharding.slots import GROUPS
from attractor_server.storage.database import Cursor
from attractor_server.storage.tables import items as item_rows
from attractor_server.storage.text_schema import add_texts, text_tables

FORMAT = 6

_TABLES = """
CREATE TABLE memories (
    id {identity}, -- never given twice: what is late for a deleted memory finds nothing
    name {text} NOT NULL UNIQUE, -- of a snapshot: its memory's name, '@', and its tag
    model TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    write TEXT NOT NULL,
    when_full TEXT NOT NULL,
    page_patterns {integer} NOT NULL,
    retain TEXT NOT NULL,
    metric TEXT NOT NULL DEFAULT 'model', -- the default is that of memories of before there was another
    recall TEXT NOT NULL DEFAULT 'posterior',
    ttl_s {real},
    created_s {real} NOT NULL,
    expires_s {real}, -- when it is forgotten unless it is written before
    version {integer} NOT NULL DEFAULT 0,
    patterns {integer} NOT NULL DEFAULT 0,
    parent {integer} REFERENCES memories ON DELETE CASCADE, -- of a snapshot: its memory
    origin {integer}, -- of a fork: the memory, or snapshot, that it was made of
    origin_version {integer},
    family {integer} -- a number that all memories have which may share contents; NULL: its own id
){strict};
CREATE INDEX snapshots ON memories (parent) WHERE parent IS NOT NULL;
CREATE INDEX models ON memories (model_digest); -- those in use are found without a look at each memory
CREATE INDEX expiring ON memories (expires_s) WHERE expires_s IS NOT NULL;

-- What is in a page. Forks and snapshots share it until one of them writes.
CREATE TABLE contents (id {identity}){strict};

CREATE TABLE pages (
    memory {integer} NOT NULL REFERENCES memories ON DELETE CASCADE,
    number {integer} NOT NULL, -- in the order in which they were opened, never given twice
    patterns {integer} NOT NULL,
    content {integer} NOT NULL REFERENCES contents,
    shared {integer} NOT NULL DEFAULT 0, -- 1: other pages may have the same content
    PRIMARY KEY (memory, number)
){clustered};
CREATE INDEX sharers ON pages (content);

-- Weights. Without an image they follow from the entries.
CREATE TABLE images (
    content {integer} PRIMARY KEY REFERENCES contents ON DELETE CASCADE,
    version {integer} NOT NULL, -- of the memory: entries up to it are in the weights
    weights {bytes}, -- NULL: in the artifact store
    location TEXT, -- there
    checksum {integer} NOT NULL, -- of the weights, or else of the location, which has a digest of them
    CHECK ((weights IS NULL) <> (location IS NULL))
){strict};
CREATE INDEX located ON images (location) WHERE location IS NOT NULL;

-- Objects in the artifact store that images were in, to be deleted when none is.
CREATE TABLE leavings (location TEXT PRIMARY KEY){clustered};

-- What was stored. Entries of the same `written` went through the writing loop together.
CREATE TABLE entries (
    content {integer} NOT NULL REFERENCES contents ON DELETE CASCADE,
    version {integer} NOT NULL,
    written {integer} NOT NULL,
    patterns {integer} NOT NULL,
    vectors {bytes} NOT NULL, -- float32, little-endian, (patterns, values)
    items {bytes} NOT NULL, -- ids and payloads; empty where no pattern has any
    checksum {integer} NOT NULL,
    PRIMARY KEY (content, version)
){strict};

{items}

{texts}

-- What each client was told about its numbered stores and erases.
CREATE TABLE answers (
    memory {integer} NOT NULL REFERENCES memories ON DELETE CASCADE,
    client TEXT NOT NULL,
    sequence {integer} NOT NULL,
    version {integer} NOT NULL,
    patterns {integer} NOT NULL,
    erases {integer} NOT NULL,
    digest {integer} NOT NULL DEFAULT 0, -- of what was written; 0: not noted
    PRIMARY KEY (memory, client, sequence)
){clustered};

{calls}

-- Whoever owns a group writes to memories of its slots under its epoch. Text of owners: see incarnation.py.
CREATE TABLE groups (
    number {integer} PRIMARY KEY,
    owner TEXT NOT NULL, -- empty: nobody
    epoch {integer} NOT NULL, -- raised by every change of owner
    waits {integer} NOT NULL -- 1 while the owner lets the lease of one before it run out
){strict};
WITH RECURSIVE numbers (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < {last_group})
INSERT INTO groups SELECT number, '', 0, 0 FROM numbers;

-- How many commits there were.
CREATE TABLE counters (name TEXT PRIMARY KEY, value {integer} NOT NULL){clustered};
INSERT INTO counters VALUES ('commits', 0);
"""

_ITEMS = """
-- Where entries have patterns with an id, or with a time when they are forgotten. Derived from the entries.
CREATE TABLE items (
    content {integer} NOT NULL,
    version {integer} NOT NULL, -- of the entry
    place {integer} NOT NULL, -- in it
    family {integer} NOT NULL, -- of the memories that have the content
    id {text} NOT NULL,
    expires_s {real},
    PRIMARY KEY (content, version, place),
    FOREIGN KEY (content, version) REFERENCES entries ON DELETE CASCADE
){clustered};
CREATE INDEX items_by_id ON items (family, id);
CREATE INDEX expiring_items ON items (expires_s) WHERE expires_s IS NOT NULL;
"""

_CALLS = """
-- Numbered calls other than stores and erases, a day long.
CREATE TABLE calls (
    client TEXT NOT NULL,
    sequence {integer} NOT NULL,
    memory TEXT NOT NULL, -- its name; empty: not noted
    kind TEXT NOT NULL, -- empty: not noted
    digest {integer} NOT NULL, -- of the request; 0: not noted
    version {integer} NOT NULL,
    patterns {integer} NOT NULL,
    made_s {real} NOT NULL,
    PRIMARY KEY (client, sequence, memory)
){clustered};
CREATE INDEX calls_by_age ON calls (made_s);
"""

FLAT_INDEX = "CREATE INDEX {} flat_names ON memories (name) WHERE parent IS NULL AND name NOT LIKE '%/%'"
"""Makes the index by which names without a slash are listed, however many others there are; stores of before the index
get it when they are opened, and older versions keep it"""

SQLITE: Mapping[str, str] = {
    "identity": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "integer": "INTEGER",
    "real": "REAL",
    "text": "TEXT",
    "bytes": "BLOB",
    "strict": " STRICT",
    "clustered": " STRICT, WITHOUT ROWID",
}

POSTGRES: Mapping[str, str] = {
    "identity": "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
    "integer": "BIGINT",
    "real": "DOUBLE PRECISION",
    "text": 'TEXT COLLATE "C"',
    "bytes": "BYTEA",
    "strict": "",
    "clustered": "",
}

_OF_FORMAT_1 = ("memories", "pages", "images", "entries", "answers", "counters")
_FROM_FORMAT_1 = """
INSERT INTO memories (id, name, model, model_digest, write, when_full, page_patterns, retain, created_s, version,
    patterns) SELECT id, name, model, model_digest, write, when_full, page_patterns, 'all', created_s, version, patterns
    FROM old_memories;
DELETE FROM sqlite_sequence WHERE name = 'memories';
INSERT INTO sqlite_sequence SELECT 'memories', seq FROM sqlite_sequence WHERE name = 'old_memories';
CREATE TEMPORARY TABLE places AS SELECT memory, number, row_number() OVER (ORDER BY memory, number) AS content
    FROM old_pages;
INSERT INTO contents SELECT content FROM places;
INSERT INTO pages SELECT memory, number, patterns, content, 0 FROM old_pages JOIN places USING (memory, number);
INSERT INTO images SELECT places.content, version, i.content, NULL,
    renewed(memory, page, version, i.content, checksum, places.content)
    FROM old_images i JOIN places USING (memory) WHERE page = number;
INSERT INTO entries SELECT places.content, version, written, patterns, e.content, x'',
    renewed(memory, page, version, e.content, checksum, places.content)
    FROM old_entries e JOIN places USING (memory) WHERE page = number;
INSERT INTO answers (memory, client, sequence, version, patterns, erases)
    SELECT memory, client, sequence, version, patterns, erases FROM old_answers;
DELETE FROM counters;
INSERT INTO counters SELECT * FROM old_counters;
DROP TABLE places;
"""


def tables(words: Mapping[str, str]) -> str:
    """Return the statements that make the newest tables, with a database's words for the types."""
    return _TABLES.format_map(
        {
            **words,
            "last_group": GROUPS - 1,
            "calls": _CALLS.format_map(words),
            "items": _ITEMS.format_map(words),
            "texts": "".join([f"{one};\n" for one in text_tables(words)]),
        }
    )


def bring_up(cursor: Cursor, found: int, words: Mapping[str, str], *, now_s: float) -> None:
    """Bring a store of format 2 or later to the newest, in the transaction that is open."""
    if found == 2:
        _leave_format_2(cursor, words, now_s=now_s)
    if found <= 3:
        cursor.execute("ALTER TABLE memories ADD COLUMN metric TEXT NOT NULL DEFAULT 'model'")
    if found <= 4:
        cursor.execute("ALTER TABLE memories ADD COLUMN recall TEXT NOT NULL DEFAULT 'posterior'")
        for step in _FROM_FORMAT_4:
            step(cursor, words)
    if found <= 5:
        for step in _FROM_FORMAT_5:
            step(cursor, words)


def _add_items(cursor: Cursor, words: Mapping[str, str]) -> None:
    """Add the table of items, filled from the entries, and the families of memories that share contents."""
    for statement in statements(_ITEMS.format_map(words)):
        cursor.execute(statement)
    cursor.execute("ALTER TABLE memories ADD COLUMN family {integer}".format_map(words))
    item_rows.find_families(cursor)
    item_rows.index_entries(cursor)


_FROM_FORMAT_4: Sequence[Callable[[Cursor, Mapping[str, str]], None]] = (_add_items,)
"""Steps from format 4 to format 5"""

_FROM_FORMAT_5: Sequence[Callable[[Cursor, Mapping[str, str]], None]] = (add_texts,)
"""Steps from format 5 to format 6"""


def _leave_format_2(cursor: Cursor, words: Mapping[str, str], *, now_s: float) -> None:
    """Bring a store of format 2 to format 3, in the transaction that is open.

    Calls other than stores stood among the answers, under numbers below zero and without their kind, and deletions
    among the counters, without their memory. They are taken for repeats of any kind and memory as long as a call is
    remembered. Of the clients of a memory those are forgotten that wrote last before many others.
    """
    cursor.execute("ALTER TABLE answers ADD COLUMN digest {integer} NOT NULL DEFAULT 0".format_map(words))
    for statement in statements(_CALLS.format_map(words)):
        cursor.execute(statement)
    cursor.execute(
        "INSERT INTO calls SELECT client, -sequence, name, '', 0, answers.version, answers.patterns, ? "
        "FROM answers JOIN memories ON memories.id = memory WHERE sequence < 0",
        (now_s,),
    )
    deleted = cursor.execute("SELECT name FROM counters WHERE name LIKE 'deleted %'").fetchall()
    for (name,) in deleted:
        client, _, sequence = name.split(" ", 2)[2].rpartition(" ")
        cursor.execute(
            "INSERT INTO calls VALUES (?, ?, '', '', 0, 0, 0, ?) ON CONFLICT DO NOTHING", (client, int(sequence), now_s)
        )
    cursor.execute("DELETE FROM counters WHERE name LIKE 'deleted %'")
    cursor.execute("DELETE FROM answers WHERE sequence < 0")
    cursor.execute(_FORGET_CLIENTS, (KNOWN_CLIENTS,))


_FORGET_CLIENTS = """
WITH clients AS (SELECT memory, client, row_number() OVER (PARTITION BY memory ORDER BY max(version) DESC) AS place
    FROM answers GROUP BY memory, client)
DELETE FROM answers WHERE (memory, client) IN (SELECT memory, client FROM clients WHERE place > ?)
"""


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script that has no semicolon within one, without its comments."""
    for statement in re.sub("--.*", "", script).split(";"):
        if statement.strip():
            yield statement


def migrate(connection: apsw.Connection, found: int) -> None:
    """Bring an SQLite store from the format found to the newest, in the transaction that is open.

    Foreign keys must not be enforced meanwhile: a table that is dropped would take along what refers to it.
    """
    if found == 1:
        _leave_format_1(connection)
    elif not found:
        connection.execute(tables(SQLITE))
    elif found < FORMAT:
        bring_up(connection.cursor(), found, SQLITE, now_s=time.time())
    if found < FORMAT:
        connection.execute(f"PRAGMA user_version = {FORMAT}")


def _leave_format_1(connection: apsw.Connection) -> None:
    connection.create_scalar_function("renewed", _renew, 6)
    for name in _OF_FORMAT_1:
        connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    connection.execute(tables(SQLITE))
    connection.execute(_FROM_FORMAT_1)
    connection.execute(_FORGET_CLIENTS, (KNOWN_CLIENTS,))
    for name in reversed(_OF_FORMAT_1):
        connection.execute(f"DROP TABLE old_{name}")
    connection.create_scalar_function("renewed", None, 6)


def _renew(*values: int | float | str | bytes | None) -> int:
    """Return the checksum by today's rule; where format 1's does not fit, that of no bytes: damage stays seen."""
    match values:
        case int(memory), int(page), int(version), bytes(stored), int(seen), int(content):
            place = zlib.crc32(struct.pack("<qqq", memory, page, version))
            return checksum(content, version, stored) if zlib.crc32(stored, place) == seen else -1
    return -1
