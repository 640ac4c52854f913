"""Texts of memories in the backend store: graded by some words, and found at their places."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from attractor_server.memories.items import ItemPlace, KeptItem
from attractor_server.memories.words import QUERY_LIMIT, Occurrences, grade_texts, split_words
from attractor_server.storage.database import Store
from attractor_server.storage.item_reader import keep_items
from attractor_server.storage.tables import items as item_rows
from attractor_server.storage.tables import pages as page_rows
from attractor_server.storage.tables import texts as text_rows


def grade(store: Store, memory: int, text: str) -> Mapping[ItemPlace, float]:
    """Return how well the texts of a memory fit the words of another one, of those that have some of them.

    The store is free between words.
    """
    words = list(dict.fromkeys(split_words(text)))[:QUERY_LIMIT]
    with store.read() as cursor:
        texts, length = text_rows.count(cursor, memory) if words else (0, 0)
        family = item_rows.families_of(cursor, [memory]).get(memory, 0)
    found = list[Sequence[Occurrences]]()
    for word in words if texts else ():
        with store.read() as cursor:
            found.append(text_rows.find(cursor, store.finding_words, memory, family, word))
    return grade_texts(found, texts, length)


def find_at(store: Store, memory: int, places: Sequence[ItemPlace]) -> Sequence[KeptItem]:
    """Return the items of a memory at these places, as far as they are there, in the order of storing.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    found = list[KeptItem]()
    for number, own in groupby(sorted(places), key=lambda place: place.page):
        with store.read() as cursor:
            page = page_rows.next_entries(cursor, memory, number)
        wanted = set(own)
        if page is not None and page[0] == number:
            found += [one for one in keep_items(*page) if one.place in wanted]
    return found
