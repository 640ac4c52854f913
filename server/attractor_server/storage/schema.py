"""The tables of the backend store, and how each format came from the one before."""

from collections.abc import Sequence

import apsw

from attractor_server.storage.groups import GROUPS

FORMAT = 2

_FORMAT_1 = """
CREATE TABLE memories (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: what is late for a deleted memory finds nothing
    name TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    write TEXT NOT NULL,
    when_full TEXT NOT NULL,
    page_patterns INTEGER NOT NULL,
    created_s REAL NOT NULL,
    version INTEGER NOT NULL DEFAULT 0,
    patterns INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE pages (
    memory INTEGER NOT NULL REFERENCES memories ON DELETE CASCADE,
    number INTEGER NOT NULL, -- in the order in which they were opened, never given twice
    patterns INTEGER NOT NULL,
    PRIMARY KEY (memory, number)
) STRICT, WITHOUT ROWID;

-- Weights of pages. Of a page without an image they follow from its entries.
CREATE TABLE images (
    memory INTEGER NOT NULL,
    page INTEGER NOT NULL,
    version INTEGER NOT NULL, -- of the memory: entries up to it are in the weights
    content BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (memory, page),
    FOREIGN KEY (memory, page) REFERENCES pages ON DELETE CASCADE
) STRICT;

-- What was stored, page by page. Entries of the same `written` went through the writing loop together.
CREATE TABLE entries (
    memory INTEGER NOT NULL,
    page INTEGER NOT NULL,
    version INTEGER NOT NULL,
    written INTEGER NOT NULL,
    patterns INTEGER NOT NULL,
    content BLOB NOT NULL, -- float32, little-endian, (patterns, values)
    checksum INTEGER NOT NULL,
    PRIMARY KEY (memory, page, version),
    FOREIGN KEY (memory, page) REFERENCES pages ON DELETE CASCADE
) STRICT;

-- What each client was told about its numbered stores and erases.
CREATE TABLE answers (
    memory INTEGER NOT NULL REFERENCES memories ON DELETE CASCADE,
    client TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    version INTEGER NOT NULL,
    patterns INTEGER NOT NULL,
    erases INTEGER NOT NULL,
    PRIMARY KEY (memory, client, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('commits', 0);
"""

# Whoever owns a group writes to memories of its slots under its epoch. Text of owners: see incarnation.py.
_GROUPS = f"""
CREATE TABLE groups (
    number INTEGER PRIMARY KEY,
    owner TEXT NOT NULL, -- empty: nobody
    epoch INTEGER NOT NULL, -- raised by every change of owner
    waits INTEGER NOT NULL -- 1 while the owner lets the lease of one before it run out
);
WITH RECURSIVE numbers (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < {GROUPS - 1})
INSERT INTO groups SELECT number, '', 0, 0 FROM numbers;
"""  # noqa: S608

_STEPS: Sequence[str] = (_FORMAT_1, _GROUPS)
"""Step n makes format n + 1 of format n"""


def migrated(connection: apsw.Connection, found: int) -> None:
    """Brings the tables from the format found to the newest, in the transaction that is open."""
    for step in _STEPS[found:]:
        connection.execute(step)
    if found < FORMAT:
        connection.execute(f"PRAGMA user_version = {FORMAT}")
