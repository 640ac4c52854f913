"""Rebuilding: a memory written anew from the patterns that the backend store keeps, of another model or its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from attractor_server.engine.batch import Loaded, joined
from attractor_server.engine.keeper import Keeper
from attractor_server.engine.keeping import images_of
from attractor_server.engine.page import Page
from attractor_server.engine.returning import found
from attractor_server.engine.work import Floats, Rebuild, Record
from attractor_server.engine.writing import finite_rows, rows_in, written
from attractor_server.errors import InvalidRequest, MemoryFull, NotRetained, WriteDiverged
from attractor_server.storage.records import NOTHING, Call, Change, Entry, Item, Remade, StoredMemory
from attractor_server.storage.settings import MemorySettings


def rebuild(
    keeper: Keeper, loaded: Mapping[str, Loaded], memory: Record, task: Rebuild, call: Call | None = None
) -> None:
    """Makes the memory one of that model, with all its patterns in full pages, or leaves it as it is.

    Raises:
        NotRetained: not all its patterns are kept.
        InvalidRequest: they are none of that model.
        MemoryFull: they need more pages than the memory may have.
        WriteDiverged: the writing loop left finite numbers.
    """
    target, stored = loaded[task.model_digest], found(keeper, memory)
    values, items = _patterns(keeper, stored)
    settings = replace(stored.settings, page_patterns=task.page_patterns)
    _check(target, memory, settings, values)
    first = stored.pages[-1].number + 1 if stored.pages else 0
    pages = _pages(target, memory, values, settings, first=first)
    try:
        keeper.commit([replace(_change(target, stored, task, pages, (values, items), settings), call=call)])
    except BaseException:
        for page in pages:
            target.bank.release(page)
        raise
    if (own := loaded.get(memory.model_digest)) is not None:
        for page in memory.pages:
            own.bank.release(page)
    memory.pages[:] = pages
    memory.model, memory.model_digest, memory.settings = task.model, task.model_digest, settings
    memory.version, memory.patterns, memory.at_hand = stored.version + 1, len(values), True
    memory.touch()


def _patterns(keeper: Keeper, stored: StoredMemory) -> tuple[Floats, Sequence[Item]]:
    """All that the memory holds (n, values), in the order in which it was stored, and what the patterns carry."""
    entries = list[Entry]()
    for row in stored.pages:
        page = keeper.page(stored.id, row.number, all_entries=True).entries
        if sum(len(entry.values) for entry in page) != row.patterns:
            raise NotRetained(
                f"page {row.number} of memory {stored.name!r} has its weights alone, and not its {row.patterns} "
                "patterns: they were not retained, or the eraser was at work; only what is kept can be written anew"
            )
        entries += page
    items = [entry.items or [NOTHING] * len(entry.values) for entry in entries]
    values = [entry.values for entry in entries if len(entry.values)]
    return joined(values) if values else np.zeros((0, 0), np.float32), list(chain.from_iterable(items))


def _check(target: Loaded, memory: Record, settings: MemorySettings, values: Floats) -> None:
    size = target.model.layout.size
    if len(values) and values.shape[1] != size:
        raise InvalidRequest.of(
            "model",
            f"saw {target.model.name}, whose patterns have {size} values; expected one of patterns with "
            f"{values.shape[1]}, as memory {memory.name!r} holds",
        )
    most = settings.most_pages
    if most is not None and len(values) > most * settings.page_patterns:
        raise MemoryFull(
            f"memory {memory.name!r} may have {most} page(s) and holds {len(values)} patterns, more than fit in pages "
            f"of {settings.page_patterns}: name more page_patterns"
        )


def _pages(target: Loaded, memory: Record, values: Floats, settings: MemorySettings, *, first: int) -> Sequence[Page]:
    """New pages with the patterns in them, as many as are needed."""
    size = settings.page_patterns
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    pages = [Page(number=first + number, patterns=len(part)) for number, part in enumerate(parts)]
    try:
        for start in range(0, len(pages), target.limit):
            some = slice(start, start + target.limit)
            _write(target, memory, pages[some], parts[some])
    except BaseException:
        for page in pages:
            target.bank.release(page)
        raise
    if pages and settings.write == "rewrite" and not settings.seals(len(parts[-1])):
        pages[-1].kept = parts[-1].copy()
    return pages


def _write(target: Loaded, memory: Record, pages: Sequence[Page], values: Sequence[Floats]) -> None:
    fast = written(target, [Page() for _ in pages], values, [0] * len(pages))
    if not all(finite_rows(fast)[: len(pages)]):
        raise WriteDiverged(
            f"the writing loop on memory {memory.name!r} left finite numbers and changed nothing: its patterns are far "
            f"from those that model {target.model.name} was trained on"
        )
    for error in target.bank.publish(pages, rows_in(fast, range(len(pages)))).values():
        raise error


def _change(  # noqa: PLR0913
    target: Loaded,
    stored: StoredMemory,
    task: Rebuild,
    pages: Sequence[Page],
    patterns: tuple[Floats, Sequence[Item]],
    settings: MemorySettings,
) -> Change:
    version = stored.version + 1
    sealed = [page for page in pages if settings.seals(page.patterns)]
    kept = pages if settings.retain == "all" else [page for page in pages if page not in sealed]
    return Change(
        memory=stored.id,
        version=version,
        patterns=len(patterns[0]),
        dropped=[row.number for row in stored.pages],
        pages={page.number: page.patterns for page in pages},
        entries=[entry for entry in _entries(pages, patterns, version) if entry.page in {page.number for page in kept}],
        images=images_of(target.bank, sealed, version),
        remade=Remade(model=task.model, model_digest=task.model_digest, page_patterns=settings.page_patterns),
    )


def _entries(pages: Sequence[Page], patterns: tuple[Floats, Sequence[Item]], version: int) -> Iterator[Entry]:
    """One for each page, with what is in it."""
    start = 0
    for page in pages:
        part = slice(start, start + page.patterns)
        values, items = patterns[0][part], patterns[1][part]
        yield Entry(page=page.number, version=version, written=version, values=values, items=items)
        start += page.patterns
