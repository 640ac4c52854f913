"""Pages of memories by name, of those that a caller may read."""

import heapq
from collections.abc import Iterable, Iterator, Sequence

from attractor_server.identity.access import Access
from attractor_server.identity.grants import Grants, Role
from attractor_server.memories.memory import MemoryRecord
from attractor_server.shard.directory import MemoryDirectory


async def list_readable(
    memories: MemoryDirectory, access: Access, *, prefix: str, after: str, size: int
) -> Sequence[MemoryRecord]:
    """Return up to `size` memories that the caller may read, of that prefix and beyond `after`, in order of names.

    The store is asked for what is granted alone: what others have costs nothing, and its number does not show.
    """
    if access.unrestricted or access.grants.everywhere >= Role.READ:
        return await memories.list_page(prefix=prefix, after=after, size=size)
    pages = [await memories.list_page(prefix=part, after=after, size=size) for part in _narrow(access.grants, prefix)]
    for name in access.grants.names(Role.READ):
        if name.startswith(prefix) and name > after:
            found = await memories.list_page(prefix=name, after=after, size=1)
            pages.append([record for record in found if record.name == name])
    if access.grants.flat >= Role.READ:
        pages.append(await memories.list_page(prefix=prefix, after=after, size=size, flat=True))
    return list(_take(heapq.merge(*pages, key=lambda record: record.name), size))


def _narrow(grants: Grants, prefix: str) -> Iterable[str]:
    """Return prefixes that no other one contains, of all names with that prefix below a granted one."""
    granted = grants.prefixes(Role.READ)
    if any(prefix.startswith(one) for one in granted):
        return [prefix]
    parts = sorted(one for one in granted if one.startswith(prefix))
    return [one for one in parts if not any(one != other and one.startswith(other) for other in parts)]


def _take(records: Iterator[MemoryRecord], size: int) -> Iterator[MemoryRecord]:
    """Yield the first ones, each name once."""
    last = ""
    for record in records:
        if size and record.name != last:
            last = record.name
            size -= 1
            yield record
