"""Erases of items that are chosen by id, by their payload or by their time, wherever a memory keeps them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

import numpy as np

from attractor_server.engine.batch import ModelState, Stops
from attractor_server.engine.operations.conflicts import exists_error
from attractor_server.engine.operations.erase_plans import ErasePlan, PageEdit
from attractor_server.engine.operations.shelves import ShelfEdits
from attractor_server.errors import NotKept, NotRetained
from attractor_server.memories.items import (
    LOOSE_PAGES,
    ByFilter,
    ByIds,
    Expired,
    ItemChoice,
    ItemPlace,
    ItemQuery,
    stamp_items,
)
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.page import Page
from attractor_server.memories.records import Item
from attractor_server.memories.store import MemoryStore

LISTED = 256
"""Items that a filter finds before others can have their turn"""


def find_chosen(state: ModelState, plan: ErasePlan) -> Stops[None]:
    """Plan to rewrite the pages that have what the job chooses, without it, and to put what it brings.

    Raises:
        NotRetained: not all patterns of such a page are kept.
        ItemExists: an item that it brings is there, and it is to refuse that.
    """
    job, memory, store = plan.job, plan.job.memory, state.store
    if store is None or state.patterns is None or not memory.id:
        raise NotKept("items: this server keeps no patterns: start it without `--durable no`")
    plan.shelves = ShelfEdits(store, memory.id)
    put = list(job.items)
    if job.on_conflict in ("refuse", "keep"):
        there = {name for name, _ in store.find_places(memory.id, [item.id for item in put if item.id])}
        if there and job.on_conflict == "refuse":
            raise exists_error(memory, next(item.id for item in put if item.id in there))
        put = [item for item in put if item.id not in there]
    created: dict[str, float] = {}
    if job.chosen is not None:
        numbers = yield from _find_pages(store, memory, job.chosen)
        pages = {page.number: page for page in memory.pages if page.number in numbers} if numbers else {}
        for number in sorted(numbers, reverse=True):
            gone = _remove(state, plan, number, pages.get(number))
            plan.taken += len(gone)
            for item in gone:
                created[item.id] = min(item.created_s, created.get(item.id, item.created_s))
            yield
    if put:
        plan.shelves.put(_stamp(put, created, plan.now_s))


def _find_pages(store: MemoryStore, memory: MemoryRecord, chosen: ItemChoice) -> Stops[set[int]]:
    """Return the numbers of the pages that have such items."""
    match chosen:
        case ByIds(ids):
            return {place.page for _, place in store.find_places(memory.id, sorted(ids))}
        case Expired(now_s):
            return set(store.find_expired_pages(memory.id, now_s))
        case ByFilter(wanted):
            numbers, place = set[int](), None
            while True:
                after: ItemPlace | None = place
                part = store.list_items(memory.id, ItemQuery(filter=wanted, size=LISTED), after)
                numbers |= {one.place.page for one in part.items}
                if (place := part.seen) is None:
                    return numbers
                yield


def _remove(state: ModelState, plan: ErasePlan, number: int, page: Page | None) -> Sequence[Item]:
    """Take the chosen items from a page, and return them; `page` is None where the engine knows none of that number."""
    memory, chosen = plan.job.memory, plan.job.chosen
    assert state.patterns is not None
    assert chosen is not None
    assert plan.shelves is not None
    if number >= LOOSE_PAGES:
        return plan.shelves.remove(number, chosen.takes)
    if page is None:
        return []
    if (patterns := state.patterns.of(memory, page)) is None:
        raise NotRetained(
            f"page {number} of memory {memory.name!r} has its weights alone, and not its {page.patterns} patterns: the "
            "eraser was at work; only what is kept can be erased by its id or payload"
        )
    stays = np.array([not chosen.takes(item) for item in patterns.items])
    if not stays.all():
        items = tuple(compress(patterns.items, stays))
        plan.changes[page] = PageEdit(page, patterns.values[stays], items, framed=memory.settings.framed)
    return list(compress(patterns.items, ~stays))


def _stamp(items: Sequence[Item], created: dict[str, float], now_s: float) -> Sequence[Item]:
    return stamp_items([replace(item, created_s=created.get(item.id, 0.0)) for item in items], now_s)
