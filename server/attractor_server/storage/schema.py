"""The tables of the backend store, and how each format came from the one before."""

import struct
import zlib
from collections.abc import Mapping

import apsw

from attractor_server.storage.groups import GROUPS
from attractor_server.storage.records import checksum

FORMAT = 2

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
    ttl_s {real},
    created_s {real} NOT NULL,
    expires_s {real}, -- when it is forgotten unless it is written before
    version {integer} NOT NULL DEFAULT 0,
    patterns {integer} NOT NULL DEFAULT 0,
    parent {integer} REFERENCES memories ON DELETE CASCADE, -- of a snapshot: its memory
    origin {integer}, -- of a fork: the memory, or snapshot, that it was made of
    origin_version {integer}
){strict};
CREATE INDEX snapshots ON memories (parent) WHERE parent IS NOT NULL;
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
    weights {bytes} NOT NULL,
    checksum {integer} NOT NULL
){strict};

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

-- What each client was told about its numbered stores and erases.
CREATE TABLE answers (
    memory {integer} NOT NULL REFERENCES memories ON DELETE CASCADE,
    client TEXT NOT NULL,
    sequence {integer} NOT NULL,
    version {integer} NOT NULL,
    patterns {integer} NOT NULL,
    erases {integer} NOT NULL,
    PRIMARY KEY (memory, client, sequence)
){clustered};

-- Whoever owns a group writes to memories of its slots under its epoch. Text of owners: see incarnation.py.
CREATE TABLE groups (
    number {integer} PRIMARY KEY,
    owner TEXT NOT NULL, -- empty: nobody
    epoch {integer} NOT NULL, -- raised by every change of owner
    waits {integer} NOT NULL -- 1 while the owner lets the lease of one before it run out
){strict};
WITH RECURSIVE numbers (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < {last_group})
INSERT INTO groups SELECT number, '', 0, 0 FROM numbers;

CREATE TABLE counters (name TEXT PRIMARY KEY, value {integer} NOT NULL){clustered};
INSERT INTO counters VALUES ('commits', 0);
"""

SQLITE: Mapping[str, str] = {
    "identity": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "integer": "INTEGER",
    "real": "REAL",
    "text": "TEXT",
    "bytes": "BLOB",
    "strict": " STRICT",
    "clustered": " STRICT, WITHOUT ROWID",
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
INSERT INTO images SELECT places.content, version, i.content,
    renewed(memory, page, version, i.content, checksum, places.content)
    FROM old_images i JOIN places USING (memory) WHERE page = number;
INSERT INTO entries SELECT places.content, version, written, patterns, e.content, x'',
    renewed(memory, page, version, e.content, checksum, places.content)
    FROM old_entries e JOIN places USING (memory) WHERE page = number;
INSERT INTO answers SELECT * FROM old_answers;
DELETE FROM counters;
INSERT INTO counters SELECT * FROM old_counters;
DROP TABLE places;
"""


def tables(words: Mapping[str, str]) -> str:
    """The statements that make the newest tables, with a database's words for the types."""
    return _TABLES.format_map({**words, "last_group": GROUPS - 1})


def migrated(connection: apsw.Connection, found: int) -> None:
    """Brings an SQLite store from the format found to the newest, in the transaction that is open.

    Foreign keys must not be enforced meanwhile: a table that is dropped would take along what refers to it.
    """
    if found == 1:
        _leave_format_1(connection)
    elif not found:
        connection.execute(tables(SQLITE))
    if found < FORMAT:
        connection.execute(f"PRAGMA user_version = {FORMAT}")


def _leave_format_1(connection: apsw.Connection) -> None:
    connection.create_scalar_function("renewed", _renewed, 6)
    for name in _OF_FORMAT_1:
        connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    connection.execute(tables(SQLITE))
    connection.execute(_FROM_FORMAT_1)
    for name in reversed(_OF_FORMAT_1):
        connection.execute(f"DROP TABLE old_{name}")
    connection.create_scalar_function("renewed", None, 6)


def _renewed(*values: int | float | str | bytes | None) -> int:
    """The checksum by today's rule; one that no bytes have where format 1's does not fit, so that damage stays seen."""
    match values:
        case int(memory), int(page), int(version), bytes(stored), int(seen), int(content):
            place = zlib.crc32(struct.pack("<qqq", memory, page, version))
            return checksum(content, version, stored) if zlib.crc32(stored, place) == seen else -1
    return -1
