"""Rebuilding: a memory written anew from the patterns that the backend store keeps, of another model or its own.

Part after part, with a stop after each, so that others are served in between. Until the last one is written nobody
reaches any of them.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

from attractor_server.engine.batch import ModelState, concatenate
from attractor_server.engine.operations.draft import PART_S, delete_in_parts
from attractor_server.engine.operations.store import find_finite_rows, select_rows, write_anew
from attractor_server.engine.pages.page_images import export_images
from attractor_server.errors import InvalidRequest, MemoryFull, NotRetained, WriteDiverged
from attractor_server.memories.memory import MemoryRecord, find_stored
from attractor_server.memories.outcomes import Floats
from attractor_server.memories.page import Page
from attractor_server.memories.records import NOTHING, Call, Change, Done, Entry, Item, Remade, StoredMemory
from attractor_server.memories.store import MemoryStore
from attractor_server.scheduling.failures import memory_gone_error
from attractor_server.scheduling.tasks import Rebuild

Rebuilt: TypeAlias = Generator[None, None, tuple[Done, int]]

_Content: TypeAlias = tuple[Floats, Sequence[Item]]
"""Patterns of a page (n, d), and what they carry"""


def rebuild_memory(
    store: MemoryStore, target: ModelState, memory: MemoryRecord, task: Rebuild, call: Call | None
) -> Rebuilt:
    """Make the memory, in the store, one of that model with all its patterns in full pages, or leave it as it is.

    Stops after each part. What it is then, and the number of the memory that has the old pages.

    Raises:
        NotRetained: not all its patterns are kept.
        InvalidRequest: they are none of that model.
        MemoryFull: they need more pages than the memory may have.
        WriteDiverged: the writing loop left finite numbers.
    """
    stored = find_stored(store, memory)
    new = replace(
        stored,
        model=task.model,
        model_digest=task.model_digest,
        settings=replace(stored.settings, page_patterns=task.page_patterns, metric=task.metric),
        version=stored.version + 1,
    )
    _check_room(new)
    draft = store.begin_import(new)
    try:
        for change in _make_changes(store, target, stored, new):
            store.add_pages(replace(change, memory=draft))
            yield
            if memory.deleted:
                raise memory_gone_error(memory)
        remade = Remade(
            model=task.model, model_digest=task.model_digest, page_patterns=task.page_patterns, metric=task.metric
        )
        change = Change(memory=stored.id, version=new.version, patterns=stored.patterns, remade=remade, call=call)
        store.end_rebuild(draft, change)
    except Exception:
        yield from delete_in_parts(store, draft)
        raise
    return Done(new.version, new.patterns), draft


def _make_changes(store: MemoryStore, target: ModelState, stored: StoredMemory, new: StoredMemory) -> Iterator[Change]:
    """Yield the new pages, as many at a time as take about as long as a part should."""
    first = stored.pages[-1].number + 1 if stored.pages else 0
    contents, width = _read_contents(store, stored, new.settings.page_patterns), 1
    while True:
        started_s = time.perf_counter()
        if not (part := list(islice(contents, width))):
            return
        pages = [Page(number=first + number, patterns=len(values)) for number, (values, _) in enumerate(part)]
        first += len(pages)
        change = _change(target, new, pages, part)
        took_s = time.perf_counter() - started_s
        if took_s > PART_S:
            width = max(1, width // 2)
        elif 2 * took_s < PART_S:
            width = min(2 * width, target.limit)
        yield change


def _read_contents(store: MemoryStore, stored: StoredMemory, size: int) -> Iterator[_Content]:
    """Yield the content of each page: all that the memory holds, in the order in which it was stored."""
    values, items, held = list[Floats](), list[Item](), 0
    for row in stored.pages:
        entries = [one for one in store.page(stored.id, row.number, all_entries=True).entries if len(one.values)]
        if sum(len(entry.values) for entry in entries) != row.patterns:
            raise NotRetained(
                f"page {row.number} of memory {stored.name!r} has its weights alone, and not its {row.patterns} "
                "patterns: they were not retained, or the eraser was at work; only what is kept can be written anew"
            )
        values += [entry.values for entry in entries]
        items += [item for entry in entries for item in entry.items or [NOTHING] * len(entry.values)]
        held += row.patterns
        while held >= size:
            whole = concatenate(values)
            yield whole[:size], items[:size]
            values, items, held = [whole[size:]], items[size:], held - size
    if held:
        yield concatenate(values), items


def _check_room(new: StoredMemory) -> None:
    most, size = new.settings.most_pages, new.settings.page_patterns
    if most is not None and new.patterns > most * size:
        raise MemoryFull(
            f"memory {new.name!r} may have {most} page(s) and holds {new.patterns} patterns, more than fit in pages "
            f"of {size}: name more page_patterns"
        )


def _check_size(target: ModelState, new: StoredMemory, values: Floats) -> None:
    size = target.model.layout.size
    if values.shape[1] != size:
        raise InvalidRequest.of(
            "model",
            f"saw {target.model.name}, whose patterns have {size} values; expected one of patterns with "
            f"{values.shape[1]}, as memory {new.name!r} holds",
        )


def _change(target: ModelState, new: StoredMemory, pages: Sequence[Page], contents: Sequence[_Content]) -> Change:
    """Write new pages with these patterns in them. The bank has them for as long as that takes."""
    _check_size(target, new, contents[0][0])
    sealed = [page for page in pages if new.settings.seals(page.patterns)]
    kept = pages if new.settings.retain == "all" else [page for page in pages if page not in sealed]
    try:
        _write(target, new, pages, [values for values, _ in contents])
        return Change(
            memory=0,
            version=new.version,
            patterns=new.patterns,
            pages={page.number: page.patterns for page in pages},
            entries=list(_make_entries(pages, contents, new.version, kept)),
            images=export_images(target.bank, sealed, new.version),
        )
    finally:
        for page in pages:
            target.bank.release(page)


def _write(target: ModelState, new: StoredMemory, pages: Sequence[Page], values: Sequence[Floats]) -> None:
    framed = [new.settings.framed] * len(pages)
    fast = write_anew(target, [Page() for _ in pages], values, [0] * len(pages), framed)
    if not all(find_finite_rows(fast)[: len(pages)]):
        raise WriteDiverged(
            f"the writing loop on memory {new.name!r} left finite numbers and changed nothing: its patterns are far "
            f"from those that model {target.model.name} was trained on"
        )
    for error in target.bank.publish(pages, select_rows(fast, range(len(pages)))).values():
        raise error


def _make_entries(
    pages: Sequence[Page], contents: Sequence[_Content], version: int, kept: Sequence[Page]
) -> Iterator[Entry]:
    """Yield one for each page that keeps its patterns."""
    for page, (values, items) in zip(pages, contents, strict=True):
        if page in kept:
            yield Entry(page=page.number, version=version, written=version, values=values, items=items)
