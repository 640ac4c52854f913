"""Verifying: every row of a store is read, and held to its checksum and to what other rows say."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import apsw
import msgpack

from attractor_server.errors import SettingsError, StoreDamaged, StoreFailed
from attractor_server.memories.items import LOOSE_PAGES
from attractor_server.memories.records import PageRow, StoredMemory, StoredPage, checksum
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends.base import Fault, View
from attractor_server.storage.database import Cursor
from attractor_server.storage.offload import find_orphans, load_image
from attractor_server.storage.tables import contents as content_rows
from attractor_server.storage.tables import items as item_rows
from attractor_server.storage.tables import memories as memory_rows
from attractor_server.storage.tables import pages as page_rows
from attractor_server.storage.tables import texts as text_rows

PORTION = 256
"""Rows that are asked for at a time"""

_VALUE_BYTES = 4

Found: TypeAlias = tuple[StoredMemory, PageRow, StoredPage]


class _Place(NamedTuple):
    """A page that some contents are in."""

    memory: str
    last: int
    """Version of the memory"""
    number: int
    patterns: int
    shared: int


def find_faults(view: View, seen: Counter[str], artifacts: Artifacts | None = None) -> Iterator[Fault]:
    """Yield everything that is wrong; count in `seen` what was read. Large images are in `artifacts`.

    What SQLite cannot read is named, and the rest goes on.
    """
    yield from view.faults
    for row in _portions(view.cursor, _MEMORIES):
        seen["memories"] += 1
        yield from _check_memory(row)
    for name, page in view.cursor.execute(_EMPTY).fetchall():
        yield Fault(f"memory {name!r}, page {page}", "what was in it is not there")
    for (content,) in _portions(view.cursor, _CONTENTS):
        places = [_Place(*row) for row in view.cursor.execute(_PLACES, (content,)).fetchall()]
        seen["pages"] += len(places)
        try:
            yield from _check_contents(view.cursor, content, places, seen, artifacts)
        except (apsw.Error, UnicodeError) as error:
            yield Fault(_describe(content, places), f"cannot be read: {error}")
    if artifacts is not None:
        for location in find_orphans(view.cursor, artifacts):
            yield Fault(f"{artifacts}/{location}", "no page has it; delete it")


def load_pages(cursor: Cursor, artifacts: Artifacts | None) -> Iterator[Found]:
    """Yield each page of each memory and snapshot, with all its entries; without those that are damaged."""
    last = 0
    while memories := memory_rows.list_by_number(cursor, last, size=PORTION):
        for memory in memories:
            for row in memory.pages:
                try:
                    stored = page_rows.load(cursor, memory.id, row.number, all_entries=True)
                    stored = load_image(stored, artifacts)
                except (StoreDamaged, StoreFailed, apsw.Error):
                    continue  # which `find_faults` names
                yield memory, row, stored
        last = memories[-1].id


_MEMORIES = (
    "SELECT id, name, version, patterns, write, when_full, page_patterns, retain, metric, recall, ttl_s, "  # noqa: S608  # a number
    "(SELECT coalesce(sum(patterns), 0) FROM pages WHERE memory = memories.id AND number < "
    f"{LOOSE_PAGES}), "
    "(SELECT coalesce(max(version), 0) FROM answers WHERE memory = memories.id), "
    "(SELECT name FROM memories m WHERE m.id = memories.parent) FROM memories WHERE id > ? ORDER BY id LIMIT ?"
)

_EMPTY = (
    "SELECT name, number FROM pages JOIN memories ON memories.id = memory "
    "WHERE NOT EXISTS (SELECT 1 FROM contents WHERE contents.id = content) ORDER BY name, number"
)

_CONTENTS = "SELECT id FROM contents WHERE id > ? ORDER BY id LIMIT ?"

_PLACES = (
    "SELECT name, version, number, pages.patterns, shared FROM pages JOIN memories ON memories.id = memory "
    "WHERE content = ? ORDER BY name, number"
)


def _portions(cursor: Cursor, statement: str) -> Iterator[Sequence[Any]]:
    """Yield all rows of a statement, which begin with their id."""
    last = -1
    while found := cursor.execute(statement, (last, PORTION)).fetchall():
        yield from found
        last = found[-1][0]


def _check_memory(row: Sequence[Any]) -> Iterator[Fault]:
    (
        _,
        name,
        version,
        patterns,
        write,
        when_full,
        page_patterns,
        retain,
        metric,
        recall,
        ttl_s,
        in_pages,
        told,
        parent,
    ) = row
    where = f"memory {name!r}"
    if name.startswith("@"):
        return  # which is being imported or deleted
    if patterns != in_pages:
        yield Fault(where, f"it counts {patterns} patterns, and its pages {in_pages}")
    if told > version:
        yield Fault(where, f"it is at version {version}, and a client was told of version {told}")
    if parent is not None and not name.startswith(f"{parent}@"):
        yield Fault(where, f"it is no snapshot of {parent!r} by its name")
    try:
        MemorySettings(
            write=write,
            when_full=when_full,
            page_patterns=page_patterns,
            retain=retain,
            metric=metric,
            recall=recall,
            ttl_s=ttl_s,
        )
    except SettingsError as error:
        yield Fault(where, error.message)


def _check_contents(
    cursor: Cursor, content: int, places: Sequence[_Place], seen: Counter[str], artifacts: Artifacts | None
) -> Iterator[Fault]:
    where = _describe(content, places)
    if not places:
        yield Fault(where, "no memory has it: what was to be deleted was not")
    if len(places) > 1 and not all(place.shared for place in places):
        yield Fault(where, "pages share it, of which not all are marked so")
    last = min((place.last for place in places), default=0)
    image = 0
    for version, weights, location, mark in cursor.execute(_IMAGE, (content,)).fetchall():
        seen["images"] += 1
        image = version
        if checksum(content, version, weights or (location or "").encode()) != mark:
            yield Fault(where, f"the image of version {version} has another checksum than it was stored with")
        elif location and (fault := _check_object(location, artifacts)):
            yield Fault(where, f"the image of version {version}: {fault}")
        if places and version > last:
            yield Fault(where, f"its image is of version {version}, and its memory at {last}")
    held = behind = 0
    named: list[tuple[Any, ...]] | None = []
    texts = list[tuple[int, int, int]]()
    for row in cursor.execute(_ENTRIES, (content,)).fetchall():
        seen["entries"] += 1
        version, patterns = row[0], row[2]
        held += patterns
        behind += patterns if version > image else 0
        if fault := _check_entry(content, row):
            yield Fault(where, f"version {version}: {fault}")
            named = None
        elif named is not None:
            items = content_rows.unpack_items(row[4])
            named += [(version, *one) for one in item_rows.describe(items)]
            texts += [(version, place, len(words)) for place, words in text_rows.describe(items)]
        if places and version > last:
            yield Fault(where, f"it has an entry of version {version}, and its memory is at {last}")
    if named is not None and named != [tuple(row) for row in cursor.execute(_ITEMS, (content,)).fetchall()]:
        yield Fault(where, "its items are not found by the ids and times that they have")
    if named is not None and texts != [tuple(row) for row in cursor.execute(_TEXTS, (content,)).fetchall()]:
        yield Fault(where, "its items are not found by the words of their texts")
    if places and cursor.execute(_STRANGE, (content,)).fetchone() is not None:
        yield Fault(where, "its items are of another family than its memory")
    for place in places:
        if (place.patterns < behind) if image else (place.patterns != held):
            counted = f"{behind} after its image" if image else str(held)
            yield Fault(_describe(content, [place]), f"it counts {place.patterns} patterns, and its entries {counted}")


_IMAGE = "SELECT version, weights, location, checksum FROM images WHERE content = ?"

_ITEMS = "SELECT version, place, id, expires_s FROM items WHERE content = ? ORDER BY version, place"

_TEXTS = "SELECT version, place, length FROM texts WHERE content = ? ORDER BY version, place"

_STRANGE = (
    "SELECT 1 FROM items JOIN pages ON pages.content = items.content JOIN memories ON memories.id = pages.memory "
    "WHERE items.content = ? AND items.family <> coalesce(memories.family, memories.id) LIMIT 1"
)

_ENTRIES = "SELECT version, written, patterns, vectors, items, checksum FROM entries WHERE content = ? ORDER BY version"


def _check_object(location: str, artifacts: Artifacts | None) -> str:
    """Say what is wrong with an object; "" if nothing is."""
    if artifacts is None:
        return f"it is {location} in an artifact store; name that by --artifact-store"
    try:
        artifacts.get(location)
    except StoreDamaged as error:
        return error.message
    return ""


def _check_entry(content: int, row: Sequence[Any]) -> str:
    """Say what is wrong with an entry; "" if nothing is."""
    version, written, patterns, vectors, items, mark = row
    if checksum(content, version, vectors, items) != mark:
        return "its patterns have another checksum than they were stored with"
    if patterns < 1 or len(vectors) % (_VALUE_BYTES * patterns):
        return f"{len(vectors)} bytes are no {patterns} patterns"
    if not 0 < written <= version:
        return f"it was written with version {written}"
    try:
        if len(content_rows.unpack_items(items)) not in (0, patterns):
            return f"it has {patterns} patterns and {len(content_rows.unpack_items(items))} payloads"
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        return f"its payloads cannot be read: {error}"
    return ""


def _describe(content: int, places: Sequence[_Place]) -> str:
    if not places:
        return f"contents {content}"
    return ", ".join(f"memory {place.memory!r}, page {place.number}" for place in places)
