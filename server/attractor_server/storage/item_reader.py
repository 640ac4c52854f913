"""Items of memories in the backend store: found by id, and listed page by page."""

import time
from collections.abc import Iterator, Sequence
from itertools import chain

from attractor_server.memories.items import END, START, ItemPart, ItemPlace, ItemQuery, KeptItem, is_expired
from attractor_server.memories.records import NOTHING, Entry
from attractor_server.storage.database import Store
from attractor_server.storage.tables import items as item_rows
from attractor_server.storage.tables import pages as page_rows

PART_S = 0.005
"""Time that a part of a list may take, about: others wait for the store's thread"""


def find_items(store: Store, memory: int, ids: Sequence[str]) -> Sequence[KeptItem]:
    """Return the items of a memory with these ids, in the order of storing.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    with store.read() as cursor:
        places = [place for _, place in item_rows.find(cursor, memory, ids)]
        pages = {place.page: page_rows.next_entries(cursor, memory, place.page) for place in places}
    wanted, now_s = set(places), time.time()
    kept = chain.from_iterable(keep_items(found[0], found[1]) for found in pages.values() if found is not None)
    return [one for one in kept if one.place in wanted and not is_expired(one.item, now_s)]


def list_items(store: Store, memory: int, query: ItemQuery, after: ItemPlace | None) -> ItemPart:
    """Return items that the query asks for behind that place; few, where more take longer than others should wait.

    The store is free between pages, of which each is read in one view.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    found, looked, backwards = list[KeptItem](), 0, query.newest_first
    seen = after or (END if backwards else START)
    end_s, number, now_s = time.perf_counter() + PART_S, seen.page, time.time()
    while True:
        with store.read() as cursor:
            page = page_rows.next_entries(cursor, memory, number, backwards=backwards)
        if page is None:
            return ItemPart(found, None, looked)
        kept = list(keep_items(*page))
        if any(one.place.version == seen.version for one in kept) and page[0] == seen.page:
            # A page that was written anew since has none of that version, and is begun again.
            kept = [one for one in kept if (one.place < seen if backwards else one.place > seen)]
        for one in reversed(kept) if backwards else kept:
            looked += 1
            seen = one.place
            if query.filter.matches(one.item) and not is_expired(one.item, now_s):
                found.append(one)
                if len(found) == query.size:
                    return ItemPart(found, seen, looked)
        number = page[0] - 1 if backwards else page[0] + 1
        if number < 0:
            return ItemPart(found, None, looked)
        seen = ItemPlace(number, -1, 0)  # the whole page comes next
        if time.perf_counter() >= end_s:
            return ItemPart(found, seen, looked)


def keep_items(number: int, entries: Sequence[Entry]) -> Iterator[KeptItem]:
    """Yield the items of a page with their places and values."""
    for entry in entries:
        items = entry.items or [NOTHING] * len(entry.values)
        for row, (item, values) in enumerate(zip(items, entry.values, strict=True)):
            yield KeptItem(ItemPlace(number, entry.version, row), item, values)
