"""Views of what memories keep: made of the patterns at hand, or in the store, when a posterior first asks for them."""

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from attractor_server.engine.batch import ModelState, PaddedBatch, Stops, concatenate
from attractor_server.engine.pages.kept_views import KeptView
from attractor_server.errors import ServerError, StoreDamaged
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Floats
from attractor_server.memories.page import Page

logger = logging.getLogger(__name__)

TOGETHER = 16
"""Pages of which views are made between two stops"""


def find_views(
    state: ModelState, memories: Iterable[MemoryRecord]
) -> Stops[tuple[Mapping[Page, KeptView], Mapping[MemoryRecord, ServerError]]]:
    """Return the views of the memories' pages that keep all their patterns, and which memories failed, and why."""
    asked = {page: memory for memory in memories for page in memory.pages if page.patterns}
    views = dict(state.views.find(list(asked)))
    failed: dict[MemoryRecord, ServerError] = {}
    missing = [page for page in asked if page not in views]
    for framed in (False, True):
        alike = [page for page in missing if asked[page].settings.framed is framed]
        for start in range(0, len(alike), TOGETHER):
            part = {page: asked[page] for page in alike[start : start + TOGETHER] if asked[page] not in failed}
            views |= _make_views(state, part, failed, framed=framed)
            yield
    return {page: view for page, view in views.items() if view is not None}, failed


def _make_views(
    state: ModelState, pages: Mapping[Page, MemoryRecord], failed: dict[MemoryRecord, ServerError], *, framed: bool
) -> Mapping[Page, KeptView | None]:
    """Make the views of these pages, and keep them for later; note which memories fail."""
    values: dict[Page, Floats] = {}
    nothing: list[Page] = []
    for page, memory in pages.items():
        try:
            found = _find_patterns(state, memory, page)
        except ServerError as error:
            failed[memory] = error
            continue
        if found is None:
            nothing.append(page)
        else:
            values[page] = found
    if framed:
        errors = state.bank.bring(values)
        failed.update({pages[page]: error for page, error in errors.items()})
        values = {page: one for page, one in values.items() if page not in errors}
    made: dict[Page, KeptView | None] = dict.fromkeys(nothing)
    made |= _view_patterns(state, values, framed=framed)
    state.views.add(made)
    return made


def _find_patterns(state: ModelState, memory: MemoryRecord, page: Page) -> Floats | None:
    """Return the patterns of a page; None where not all are kept.

    Raises:
        ServerError: the store cannot be read.
    """
    if page.kept is not None:
        return page.kept
    assert state.patterns is not None
    try:
        found = state.patterns.of(memory, page)
    except StoreDamaged as error:  # which whoever asks for it is told; the weights of the page are as they were
        logger.warning("memory %s: page %d answers without what it keeps: %s", memory.name, page.number, error)
        return None
    return None if found is None else found.values


def _view_patterns(state: ModelState, values: Mapping[Page, Floats], *, framed: bool) -> Mapping[Page, KeptView]:
    """Return views of values (n, d) in user units; pages with frames are those that the bank has just brought."""
    if not values:
        return {}
    model, counts = state.model, [len(one) for one in values.values()]
    flat = state.to_device(concatenate(list(values.values())))
    u = model.prepare(flat)
    if framed:
        grid = PaddedBatch(counts, rows=state.count_rows(len(counts)))
        x = _enter_frames(state, list(values), grid, u)[grid.at(flat.device)]
    else:
        x = model.transform.whiten(u)
    return {
        page: KeptView.of(own, directions)
        for page, own, directions in zip(values, u.split(counts), x.split(counts), strict=True)
    }


def _enter_frames(state: ModelState, pages: Sequence[Page], grid: PaddedBatch, u: torch.Tensor) -> torch.Tensor:
    """Return prepared patterns in network units in the frames of their pages, (rows · width, entries)."""
    lent = state.in_place_tensors
    if lent is None:
        x = state.enter_frames(True, grid.spread_tensor(u), state.copy_brought_pages(pages, grid.shape[0]))
    else:
        x = state.enter_frames(True, grid.spread_tensor(u), lent, state.bank.locate(pages))
    return x.flatten(0, 1)


def enter_frames(state: ModelState, pages: Sequence[Page], counts: Sequence[int], u: torch.Tensor) -> Floats:
    """Bring prepared patterns, so many for each page, row after row, into the frames of pages: (patterns, entries).

    Raises:
        ServerError: the first cause why a page could not come into the bank.
    """
    for error in state.bank.bring(pages).values():
        raise error
    lent = state.in_place_tensors
    grid = PaddedBatch(counts, rows=len(pages) if lent is not None else state.count_rows(len(pages)))
    found: Floats = _enter_frames(state, pages, grid, u)[grid.at(u.device)].float().cpu().numpy()
    return np.ascontiguousarray(found)
