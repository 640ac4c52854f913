"""Rows of pages. Each has contents, which forks and snapshots share until one of them writes."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from attractor_server.memories.items import LOOSE_PAGES
from attractor_server.memories.records import Change, Entry, PageRow, StoredPage
from attractor_server.storage.database import Cursor, several
from attractor_server.storage.database import number as count
from attractor_server.storage.tables import contents as content_rows
from attractor_server.storage.tables import items as item_rows
from attractor_server.storage.tables.items import has_items
from attractor_server.storage.tables.texts import has_texts

_FOUND = "SELECT memory, number, content, shared FROM pages WHERE (memory, number) IN (VALUES {})"

_Place: TypeAlias = tuple[int, int]
"""A memory, and the number of a page of it"""


def rows_of(cursor: Cursor, memory: int) -> Sequence[PageRow]:
    """Return the pages of a memory, the oldest first; not those of items without a pattern."""
    rows = cursor.execute(
        "SELECT number, pages.patterns, images.version IS NOT NULL, EXISTS (SELECT 1 FROM entries "
        "WHERE entries.content = pages.content AND entries.version > coalesce(images.version, 0)) "
        "FROM pages LEFT JOIN images ON images.content = pages.content WHERE memory = ? AND number < ? ORDER BY number",
        (memory, LOOSE_PAGES),
    ).fetchall()
    return [
        PageRow(number=number, patterns=patterns, image=bool(image), entries=bool(entries))
        for number, patterns, image, entries in rows
    ]


def load(cursor: Cursor, memory: int, number: int, *, all_entries: bool = False) -> StoredPage:
    """Return what a page's weights follow from; with `all_entries` also what is in its image already.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    row = cursor.execute("SELECT content FROM pages WHERE memory = ? AND number = ?", (memory, number)).fetchone()
    if row is None:
        return StoredPage(image=None)
    where = f"memory {memory}, page {number}"
    image = content_rows.load_image(cursor, row[0], number, where)
    after = 0 if image is None or all_entries else image.version
    return StoredPage(image=image, entries=list(content_rows.load_entries(cursor, row[0], number, where, after=after)))


def load_entries(cursor: Cursor, memory: int, number: int) -> Sequence[Entry]:
    """Return all entries of a page, if they hold all its patterns: its weights follow from them; else none.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    row = cursor.execute(
        "SELECT content, patterns FROM pages WHERE memory = ? AND number = ?", (memory, number)
    ).fetchone()
    if row is None:
        return []
    entries = list(content_rows.load_entries(cursor, row[0], number, f"memory {memory}, page {number}"))
    return entries if sum(len(entry.values) for entry in entries) == row[1] else []


def apply(cursor: Cursor, changes: Sequence[Change]) -> None:
    """Change the pages of memories as the changes say, each of another memory."""
    for change in changes:
        drop(cursor, change.memory, change.dropped)
    contents = _own(
        cursor,
        [(one.memory, number) for one in changes for number in (*one.pages, *one.emptied)],
        emptied={(one.memory, number) for one in changes for number in one.emptied},
    )
    cursor.executemany(
        "UPDATE pages SET patterns = ? WHERE memory = ? AND number = ?",
        [(patterns, one.memory, number) for one in changes for number, patterns in one.pages.items()],
    )
    named = [one.memory for one in changes if any(has_items(entry) or has_texts(entry) for entry in one.entries)]
    families = item_rows.families_of(cursor, named)
    content_rows.add_entries(
        cursor,
        [
            (contents[one.memory, entry.page], families.get(one.memory, 0), entry)
            for one in changes
            for entry in one.entries
        ],
    )
    content_rows.put_images(
        cursor, [(contents[one.memory, image.page], image) for one in changes for image in one.images]
    )


def next_entries(
    cursor: Cursor, memory: int, number: int, *, backwards: bool = False
) -> tuple[int, Sequence[Entry]] | None:
    """Return the first page with that number or a higher one, or going backwards a lower one, and all its entries.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    row = cursor.execute(_BACK if backwards else _NEXT, (memory, number)).fetchone()
    if row is None:
        return None
    found, content = row
    where = f"memory {memory}, page {found}"
    return found, list(content_rows.load_entries(cursor, content, found, where))


_NEXT = "SELECT number, content FROM pages WHERE memory = ? AND number >= ? ORDER BY number LIMIT 1"

_BACK = "SELECT number, content FROM pages WHERE memory = ? AND number <= ? ORDER BY number DESC LIMIT 1"


def count_all(cursor: Cursor, memory: int) -> int:
    """Return how many patterns and items without one the pages of a memory have."""
    return count(cursor.execute("SELECT coalesce(sum(patterns), 0) FROM pages WHERE memory = ?", (memory,)))


def touch(cursor: Cursor, memory: int, ids: Sequence[str], expires_s: float | None) -> Sequence[int]:
    """Give the items of a memory with these ids another end; return the page of each.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    places = [place for _, place in item_rows.find(cursor, memory, ids)]
    contents = _own(cursor, [(memory, number) for number in dict.fromkeys(place.page for place in places)], emptied=())
    for number, version in dict.fromkeys((place.page, place.version) for place in places):
        rows = [place.row for place in places if (place.page, place.version) == (number, version)]
        where = f"memory {memory}, page {number}"
        content_rows.touch(cursor, contents[memory, number], version, rows, expires_s, where)
    return [place.page for place in places]


def share(cursor: Cursor, memory: int, other: int) -> None:
    """Give the other memory, which has no pages, those of the first; they share the contents."""
    cursor.execute("UPDATE pages SET shared = 1 WHERE memory = ? AND shared = 0", (memory,))
    cursor.execute(
        "INSERT INTO pages SELECT ?, number, patterns, content, 1 FROM pages WHERE memory = ?", (other, memory)
    )


def move(cursor: Cursor, memory: int, other: int) -> None:
    """Give the other memory, which has no pages, those of the first, which has none then."""
    cursor.execute("UPDATE pages SET memory = ? WHERE memory = ?", (other, memory))


def are_more_than(cursor: Cursor, memory: int, pages: int) -> bool:
    """Return whether a memory has more pages than that."""
    rows = cursor.execute("SELECT number FROM pages WHERE memory = ? LIMIT ?", (memory, pages + 1)).fetchall()
    return len(rows) > pages


def drop_all(cursor: Cursor, memory: int) -> None:
    """Take all pages of a memory away."""
    rows = cursor.execute("SELECT number FROM pages WHERE memory = ?", (memory,)).fetchall()
    drop(cursor, memory, [number for (number,) in rows])


def drop(cursor: Cursor, memory: int, numbers: Iterable[int]) -> None:
    """Take pages away, and their contents unless others share them."""
    for number in numbers:
        row = cursor.execute(
            "DELETE FROM pages WHERE memory = ? AND number = ? RETURNING content, shared", (memory, number)
        ).fetchone()
        if row is not None:
            content_rows.forget(cursor, row[0], shared=bool(row[1]))


def contents_of(cursor: Cursor, memory: int) -> Sequence[tuple[int, bool]]:
    """Return the contents of a memory and of its snapshots, and whether other pages may share each."""
    return cursor.execute(
        "SELECT content, max(shared) FROM pages WHERE memory = ? "
        "OR memory IN (SELECT id FROM memories WHERE parent = ?) GROUP BY content ORDER BY content",
        (memory, memory),
    ).fetchall()


def shorten(cursor: Cursor, memory: int, pages: int) -> bool:
    """Take up to so many pages of a memory away; return whether it may have more."""
    rows = cursor.execute(
        "SELECT number FROM pages WHERE memory = ? ORDER BY number LIMIT ?", (memory, pages)
    ).fetchall()
    drop(cursor, memory, [number for (number,) in rows])
    return len(rows) == pages


def _own(cursor: Cursor, places: Sequence[_Place], *, emptied: Collection[_Place]) -> Mapping[_Place, int]:
    """Return the contents of these pages, made if need be, which each memory shares with nobody from now on."""
    contents = {}
    found = _find(cursor, places)
    for place in dict.fromkeys(places):
        old, sharing = found.get(place, (0, False))
        if not old:
            contents[place] = content_rows.make(cursor)
            cursor.execute("INSERT INTO pages VALUES (?, ?, 0, ?, 0)", (*place, contents[place]))
        elif place in emptied or sharing:
            contents[place] = _replace(cursor, *place, old, empty=place in emptied)
            content_rows.forget(cursor, old, shared=sharing)
        else:
            contents[place] = old
    return contents


def _find(cursor: Cursor, places: Sequence[_Place]) -> Mapping[_Place, tuple[int, bool]]:
    """Return the contents of these pages where there are any, and whether others share them."""
    if not places:
        return {}
    marks, values = several(places)
    rows = cursor.execute(_FOUND.format(marks), values).fetchall()
    return {(memory, number): (content, bool(sharing)) for memory, number, content, sharing in rows}


def _replace(cursor: Cursor, memory: int, number: int, old: int, *, empty: bool) -> int:
    """Make new contents in the place of old ones, empty or a copy of those; return their number."""
    new = content_rows.make(cursor)
    if not empty:
        content_rows.copy(cursor, old, new, f"memory {memory}, page {number}")
    cursor.execute("UPDATE pages SET content = ?, shared = 0 WHERE memory = ? AND number = ?", (new, memory, number))
    return new
