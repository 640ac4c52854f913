"""Memories at hand, by name."""

import bisect
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from attractor_server.errors import Conflict, MemoryNotFound, OtherSettings
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.settings import MemorySettings

_AFTER_ALL = "\x7f"
"""Comes after each character of a name"""


class Catalog:
    """Memories by name, listed in the order of names."""

    def __init__(self) -> None:
        self._records: dict[str, MemoryRecord] = {}
        self._names: list[str] = []
        self._mortal: dict[str, MemoryRecord] = {}
        """Memories that will expire"""
        self._settings: dict[MemorySettings, MemorySettings] = {}
        """One of each, which all memories share that have it"""

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def find(self, name: str) -> MemoryRecord | None:
        """Return the memory of that name, or None."""
        return self._records.get(name)

    def adopt(self, record: MemoryRecord) -> None:
        """Add a memory that was made elsewhere, under a name that is free."""
        assert record.name not in self._records
        self._records[record.name] = record
        if record.settings.ttl_s is not None:
            self._mortal[record.name] = record
        bisect.insort(self._names, record.name)

    def create(self, name: str, *, model: str, model_digest: str, settings: MemorySettings) -> MemoryRecord:
        """Return the memory of that name, model and settings, made now if there is none.

        Raises:
            Conflict: the name is taken by a memory of another model, or with other settings.
        """
        if (record := self._records.get(name)) is None:
            settings = self._settings.setdefault(settings, settings)
            made: MemoryRecord = MemoryRecord(name, sys.intern(model), model_digest, time.time(), settings)
            made.touch()
            self.adopt(made)
            return made
        if record.model_digest != model_digest:
            raise Conflict(
                f"memory {name!r} exists and was made from model {record.model} ({record.model_digest}); "
                f"asked for {model} ({model_digest}): delete it first, or choose another name"
            )
        if difference := record.settings.difference(settings):
            raise OtherSettings(
                f"memory {name!r} exists and its {difference}: ask for what it has, delete it first, "
                "or choose another name"
            )
        return record

    def get(self, name: str) -> MemoryRecord:
        """Return the memory of that name.

        Raises:
            MemoryNotFound: there is none.
        """
        if (record := self._records.get(name)) is None:
            raise MemoryNotFound(f"no memory {name!r}; create it first")
        return record

    def remove(self, name: str) -> MemoryRecord:
        """Take the memory out of the catalog and mark it deleted.

        Raises:
            MemoryNotFound: there is none.
        """
        record = self.get(name)
        record.deleted = True
        del self._records[name]
        self._mortal.pop(name, None)
        self._names.pop(bisect.bisect_left(self._names, name))
        return record

    def find_expired(self, *, now_s: float, size: int) -> Sequence[str]:
        """Return the names of up to `size` memories whose time is over."""
        over = (name for name, record in self._mortal.items() if (record.expires_s or now_s) < now_s)
        return list(islice(over, size))

    def part(self, goes: Callable[[str], bool]) -> Sequence[MemoryRecord]:
        """Take out the memories whose names `goes` is true of, and mark them moved."""
        moved = [record for name, record in self._records.items() if goes(name)]
        for record in moved:
            record.moved = True
            del self._records[record.name]
            self._mortal.pop(record.name, None)
        self._names = [name for name in self._names if name in self._records] if moved else self._names
        return moved

    def _flat_names(self, after: str) -> Iterator[str]:
        """Yield names without a slash beyond `after`; each namespace between them is passed over at once."""
        at = bisect.bisect_right(self._names, after)
        while at < len(self._names):
            namespace, slash, _ = self._names[at].partition("/")
            if slash:
                at = bisect.bisect_right(self._names, f"{namespace}/{_AFTER_ALL}", lo=at)
            else:
                yield namespace
                at += 1

    def page(self, *, prefix: str, after: str, size: int, flat: bool = False) -> Sequence[MemoryRecord]:
        """Return up to `size` memories with that prefix and names beyond `after`, in the order of names.

        Where `flat`, of those whose names have no slash.
        """
        if flat:
            found = (name for name in self._flat_names(after) if name.startswith(prefix))
            return [self._records[name] for name in islice(found, size)]
        start = max(bisect.bisect_left(self._names, prefix), bisect.bisect_right(self._names, after))
        names = self._names[start : start + size]
        return [self._records[name] for name in names if name.startswith(prefix)]
