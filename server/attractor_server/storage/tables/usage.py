"""Usage of namespaces: counted from the rows of memories, and carried on in counters of each namespace."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from attractor_server.memories.names import HIDDEN, namespace_of
from attractor_server.storage.database import Cursor, several

PLACES_AT_A_TIME = 1024


class Usage(NamedTuple):
    """Memories, items and bytes that are kept; less than nothing where they were taken away."""

    memories: int = 0
    items: int = 0
    bytes: int = 0

    def plus(self, other: "Usage", times: int = 1) -> "Usage":
        """Return both together; with -1 `times` what is left without the other."""
        return Usage(*(mine + times * theirs for mine, theirs in zip(self, other, strict=True)))


_ITEMS = "(SELECT coalesce(sum(pages.patterns), 0) FROM pages WHERE memory = memories.id)"

_BYTES = (
    "coalesce((SELECT sum(length(vectors) + length(items)) FROM entries WHERE entries.content = pages.content), 0) + "
    "coalesce((SELECT length(weights) FROM images WHERE images.content = pages.content), 0)"
)

_MEMORY_BYTES = f"(SELECT coalesce(sum({_BYTES}), 0) FROM pages WHERE memory = memories.id)"  # noqa: S608 - constants

_SEEN = f"memories.name NOT LIKE '@%' AND memories.name NOT LIKE '%@{HIDDEN}%'"
"""Neither drafts nor snapshots that are taken to be read once"""

_WHOLE = (
    "SELECT memories.name, CASE WHEN parent IS NULL THEN 1 ELSE 0 END, "  # noqa: S608 - constants
    f"{_ITEMS}, {_MEMORY_BYTES} FROM memories WHERE {_SEEN} AND ({{}})"
)

_PAGES = (
    "SELECT memories.name, 0, coalesce(sum(pages.patterns), 0), "  # noqa: S608 - constants
    f"coalesce(sum({_BYTES}), 0) FROM pages JOIN memories ON memories.id = pages.memory "
    f"WHERE {_SEEN} AND (pages.memory, pages.number) IN (VALUES {{}}) GROUP BY memories.name"
)

_ALL = (
    "SELECT coalesce(sum(CASE WHEN parent IS NULL THEN 1 ELSE 0 END), 0), "  # noqa: S608 - constants
    f"coalesce(sum({_ITEMS}), 0), coalesce(sum({_MEMORY_BYTES}), 0) FROM memories WHERE {_SEEN} AND "
)


def measure(cursor: Cursor, ids: Sequence[int], names: Sequence[str]) -> Mapping[str, Usage]:
    """Return what these memories, and those of these names, keep with their snapshots, by namespace."""
    which, values = list[str](), list[int | str]()
    if ids:
        marks = ", ".join("?" * len(ids))
        which += [f"memories.id IN ({marks})", f"parent IN ({marks})"]
        values += [*ids, *ids]
    if names:
        which.append(f"memories.name IN ({', '.join('?' * len(names))})")
        values += names
    return _sum(cursor.execute(_WHOLE.format(" OR ".join(which)), values).fetchall()) if which else {}


def measure_pages(cursor: Cursor, places: Sequence[tuple[int, int]]) -> Mapping[str, Usage]:
    """Return what these pages keep, each a memory's id and a number, by namespace."""
    rows = []
    for start in range(0, len(places), PLACES_AT_A_TIME):
        marks, values = several(places[start : start + PLACES_AT_A_TIME])
        rows += cursor.execute(_PAGES.format(marks), values).fetchall()
    return _sum(rows)


def measure_all(cursor: Cursor, namespace: str) -> Usage:
    """Return what a namespace keeps, by a look at all its memories."""
    if namespace:
        row = cursor.execute(f"{_ALL} memories.name >= ? AND memories.name < ?", (f"{namespace}/", f"{namespace}0"))
    else:
        row = cursor.execute(f"{_ALL} memories.name NOT LIKE '%/%'")
    return Usage(*map(int, row.fetchone()))


def load(cursor: Cursor, namespaces: Sequence[str], claiming: str) -> Mapping[str, Usage | None]:
    """Return what was counted of each namespace, for nobody else to change before the transaction ends; None for none.

    `claiming` ends a SELECT that locks its rows.
    """
    keys = sorted(_key(namespace, kind) for namespace in namespaces for kind in Usage._fields)
    cursor.executemany("INSERT INTO counters VALUES (?, -1) ON CONFLICT (name) DO NOTHING", [(key,) for key in keys])
    marks = ", ".join("?" * len(keys))
    rows = cursor.execute(
        f"SELECT name, value FROM counters WHERE name IN ({marks}) ORDER BY name{claiming}",  # noqa: S608 - marks
        keys,
    ).fetchall()
    found = dict(rows)
    counts = {one: [found[_key(one, kind)] for kind in Usage._fields] for one in namespaces}
    return {one: None if -1 in count else Usage(*count) for one, count in counts.items()}


def save(cursor: Cursor, counts: Mapping[str, Usage]) -> None:
    """Write what was counted."""
    cursor.executemany(
        "UPDATE counters SET value = ? WHERE name = ?",
        [
            (max(value, 0), _key(namespace, kind))
            for namespace, usage in counts.items()
            for kind, value in usage._asdict().items()
        ],
    )


def _key(namespace: str, kind: str) -> str:
    return f"{kind} of {namespace}"


def _sum(rows: Iterable[tuple[str, int, int, int]]) -> Mapping[str, Usage]:
    sums: dict[str, Usage] = defaultdict(Usage)
    for name, *counts in rows:
        namespace = namespace_of(name)
        sums[namespace] = sums[namespace].plus(Usage(*map(int, counts)))
    return sums
