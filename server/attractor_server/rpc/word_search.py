"""Searches by words alone. They read the store, never on the engine's thread."""

import time
from collections.abc import Mapping, Sequence

from attractor_server.memories.items import LOOSE_PAGES, ItemPlace, KeptItem, is_expired
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.search import Found, Hit, SearchQuery
from attractor_server.shard.directory import MemoryDirectory

AT_A_TIME = 64
"""Texts whose items are fetched until others have the store"""

LOOKED_LIMIT = 10_000
"""Items that a filter looks at, about"""


async def search_words(memories: MemoryDirectory, record: MemoryRecord, asked: SearchQuery) -> Found:
    """Find the items of a memory whose texts have some of the words.

    Raises:
        StoreFailed: the store cannot be read.
        StoreDamaged: a checksum is wrong.
    """
    grades = await memories.ask(lambda store: store.grade_texts(record.id, asked.words))
    order = sorted(grades, key=lambda place: (-grades[place], place))
    pages = {page.number: number for number, page in enumerate(record.pages)}
    found: dict[str | ItemPlace, Hit] = {}
    looked, now_s = 0, time.time()
    for start in range(0, len(order), AT_A_TIME):
        if len(found) >= asked.size and (not asked.filter.conditions or start >= LOOKED_LIMIT):
            break
        kept = await memories.ask(lambda store: store.find_at(record.id, order[start : start + AT_A_TIME]))  # noqa: B023
        for one in _sort(kept, grades):
            if is_expired(one.item, now_s) or not asked.filter.matches(one.item):
                continue
            looked += 1
            name = one.item.id or one.place
            if name not in found and len(found) < asked.size:
                page = 0 if one.place.page >= LOOSE_PAGES else pages.get(one.place.page, 0)
                found[name] = Hit(item=one.item, page=page, score=grades[one.place], values=one.values)
    return Found(hits=list(found.values()), total=looked if asked.filter.conditions else len(order))


def _sort(kept: Sequence[KeptItem], grades: Mapping[ItemPlace, float]) -> Sequence[KeptItem]:
    return sorted(kept, key=lambda one: (-grades[one.place], one.place))
