"""Items as they are kept: found by id, listed in the order of storing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from attractor_server.memories.filters import EVERYTHING, Filter
from attractor_server.memories.records import NOTHING, Floats, Item

LOOSE_PAGES = 1 << 48
"""Pages with this number or a higher one hold items without a pattern. No engine knows them."""


def stamp_items(items: Sequence[Item], now_s: float) -> Sequence[Item]:
    """Return the items of a store with their times; what carries nothing has none."""
    return [item if item == NOTHING else _stamp(item, now_s) for item in items]


def _stamp(item: Item, now_s: float) -> Item:
    expires_s = now_s + item.ttl_s if item.ttl_s else item.expires_s
    return replace(item, created_s=item.created_s or now_s, updated_s=now_s, expires_s=expires_s, ttl_s=0.0)


SHELF_ITEMS = 64
"""Items in such a page"""

OnConflict: TypeAlias = Literal["append", "replace", "refuse", "keep"]
"""Treatment of patterns whose id the memory has already"""


class ItemPlace(NamedTuple):
    """Place of an item in its memory. In their order these are in the order of storing."""

    page: int
    version: int
    """Of the entry"""
    row: int
    """In the entry"""


START = ItemPlace(-1, 0, 0)
"""Before the place of every item"""

END = ItemPlace((1 << 63) - 1, 0, 0)
"""Behind the place of every item"""


@dataclass(frozen=True, slots=True)
class KeptItem:
    """An item in its place."""

    place: ItemPlace
    item: Item
    values: Floats
    """(d,) in user units; (0,) of an item without a pattern"""


@dataclass(frozen=True, kw_only=True)
class ItemQuery:
    """Items that a list is to have."""

    filter: Filter = EVERYTHING
    newest_first: bool = False
    size: int
    """At most"""


@dataclass(frozen=True)
class ByIds:
    """Items with one of these ids."""

    ids: frozenset[str]

    def takes(self, item: Item) -> bool:
        """Return whether the item is chosen."""
        return item.id in self.ids


@dataclass(frozen=True)
class ByFilter:
    """Items whose payload the filter matches."""

    filter: Filter

    def takes(self, item: Item) -> bool:
        """Return whether the item is chosen."""
        return self.filter.matches(item)


@dataclass(frozen=True)
class Expired:
    """Items whose time is over."""

    now_s: float

    def takes(self, item: Item) -> bool:
        """Return whether the item is chosen."""
        return is_expired(item, self.now_s)


ItemChoice: TypeAlias = ByIds | ByFilter | Expired


def is_expired(item: Item, now_s: float) -> bool:
    """Return whether the item's time is over; until it is erased nobody is told of it."""
    return item.expires_s is not None and item.expires_s <= now_s


@dataclass(frozen=True)
class ItemPart:
    """Part of a list: what was found on the way to a place, from which the next part goes on."""

    items: Sequence[KeptItem]
    seen: ItemPlace | None
    """Place of the last item that was looked at; None at the end of the list"""
    looked: int
    """Items that were looked at"""
