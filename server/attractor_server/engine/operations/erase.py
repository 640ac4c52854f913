"""Erasing: exactly where the page keeps its patterns, by the trained eraser where it does not."""

from collections.abc import Iterator, MutableMapping, Sequence
from functools import partial
from itertools import compress

import numpy as np
import torch

from attractor_server.energy.eraser import erase as erase_by_training
from attractor_server.energy.frame import weights_of
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.engine.batch import PART_READS, MemoryBatch, ModelState, Results, Stops, concatenate
from attractor_server.engine.bisection import by_halves
from attractor_server.engine.operations.chosen import find_chosen
from attractor_server.engine.operations.draft import draft_of, release_by_and_by
from attractor_server.engine.operations.erase_plans import ErasePlan, PageEdit, remove_erased
from attractor_server.engine.operations.persist import describe_erase, end_erase, keep_erases
from attractor_server.engine.operations.route import Cues, choose
from attractor_server.engine.operations.store import add_in_parts, find_finite_rows, fit_frames, publish, select_rows
from attractor_server.engine.pages.pattern_cache import PatternCache
from attractor_server.errors import BankFull, CannotErase, ServerError, WriteDiverged
from attractor_server.memories.outcomes import Erased, Floats, Outcome
from attractor_server.memories.page import Page, release
from attractor_server.scheduling.failures import describe_divergence, log_fault
from attractor_server.scheduling.jobs import Job

ERASING = 16
"""Patterns that are written in the time that the eraser needs for one, about"""

ERASED_TOGETHER = 4
"""Patterns of a page before each stop"""


def erase(state: ModelState, batches: Sequence[MemoryBatch]) -> Results:
    """Erase the patterns of one job of each memory, all of them or none.

    A pattern that is kept, by an open page or by the backend store, leaves its page as if it had been stored one time
    less. Any other goes to the eraser, on the page that knows it best; that page keeps no patterns from then on, as it
    does not follow from them any more.
    """
    plans = [ErasePlan(batch.jobs[0], _no_values(state)) for batch in batches]
    settled = dict(_find_repeats(state, plans))
    plans = [one for one in plans if one.job not in settled]
    yield from settled.items()
    yield from by_halves(plans, partial(_find, state), partial(_fail, "search for what to erase"))
    if batches[0].cut and len(plans) == 1 and plans[0].error is None and plans[0].changes:
        yield from _erase_beside(state, plans[0])
        return
    for part in _group_plans(state, plans):
        yield from by_halves(part, partial(_apply, state), partial(_fail, "erasing"))
    idle = [one for one in plans if one.error is None and one.idle]
    yield from ((one.job, Erased(one.job.memory.version, one.job.memory.patterns)) for one in idle)
    plans = [one for one in plans if one not in idle]
    outcomes: dict[Job, Outcome | ServerError] = {one.job: one.error or _count_erase(one) for one in plans}
    outcomes.update(keep_erases(state, plans, outcomes))
    yield from outcomes.items()


def _find_repeats(state: ModelState, plans: Sequence[ErasePlan]) -> Iterator[tuple[Job, Outcome | ServerError]]:
    """Yield what the store knows of numbered calls that have come before."""
    for one in plans:
        if one.job.call is None or state.store is None:
            continue
        try:
            if (done := state.store.find_call(one.job.call)) is not None:
                yield one.job, Erased(done.version, done.patterns)
        except ServerError as error:
            yield one.job, error


def _find(state: ModelState, plans: Sequence[ErasePlan]) -> Stops[None]:
    """Plan what to do to which pages."""
    for one in plans:
        one.begin()
    for one in (one for one in plans if one.job.values is None):
        try:
            yield from find_chosen(state, one)
        except ServerError as error:
            one.error = error
    yield from _find_kept(state, [one for one in plans if one.job.values is not None])
    yield from _find_others(state, [one for one in plans if one.error is None and len(one.rest)])


def _fail(what: str, plans: Sequence[ErasePlan], error: Exception) -> None:
    for one in plans:
        one.error = log_fault(error, what, len(plans))


def _find_kept(state: ModelState, plans: Sequence[ErasePlan]) -> Stops[None]:
    """Plan to rewrite pages without those of their patterns that are kept."""
    if state.patterns is None:
        _find_at_hand(state, plans)
        return
    for one in plans:
        try:
            yield from _find_in_store(state.patterns, one)
        except ServerError as error:
            one.error = error


def _find_in_store(kept: PatternCache, plan: ErasePlan) -> Stops[None]:
    """Search all pages, the newest first, until all patterns are found; stop after each."""
    memory = plan.job.memory
    for page in reversed(memory.pages):
        if not len(plan.rest):
            return
        if (patterns := kept.of(memory, page)) is None:
            continue
        stays, plan.rest = remove_erased(patterns.values, plan.rest)
        if not stays.all():
            items = tuple(compress(patterns.items, stays))
            plan.changes[page] = PageEdit(page, patterns.values[stays], items, framed=memory.settings.framed)
        yield


def _find_at_hand(state: ModelState, plans: Sequence[ErasePlan]) -> None:
    """Search the open pages, the only ones that keep patterns where there is no store."""
    keeping = [one for one in plans if one.job.memory.pages and one.job.memory.settings.write == "rewrite"]
    for start in range(0, len(keeping), state.bank.capacity):
        part = keeping[start : start + state.bank.capacity]
        failed = state.bank.bring([one.job.memory.pages[-1] for one in part])
        for one in part:
            page = one.job.memory.pages[-1]
            one.error = failed.get(page)
            if page.kept is not None and page not in failed:
                stays, one.rest = remove_erased(page.kept, one.rest)
                if not stays.all():
                    one.changes[page] = PageEdit(page, page.kept[stays], framed=one.job.memory.settings.framed)


def _find_others(state: ModelState, plans: Sequence[ErasePlan]) -> Stops[None]:
    """Plan which pages the eraser is to change; where nothing is stored there is nothing to change."""
    holding = [one for one in plans if any(page.written for page in one.job.memory.pages)]
    if not state.model.erases:
        for one in holding:
            one.error = CannotErase(
                f"model {state.model.name} cannot erase, and {len(one.rest)} of the patterns are not kept "
                f"by the page of memory {one.job.memory.name!r} that is being filled: make the memory anew without them"
            )
        return
    cut = any(one.job.cut for one in holding)
    asked = [Cues(one.job.memory.pages, one.rest, one.job.memory.settings.framed) for one in holding]
    found = yield from choose(state, asked, cut=cut)
    for one, chosen in zip(holding, found, strict=True):
        if isinstance(chosen, ServerError):
            one.error = chosen
            continue
        for number in np.unique(chosen.page).tolist():
            page = one.job.memory.pages[number]
            change = one.changes.setdefault(page, PageEdit(page, framed=one.job.memory.settings.framed))
            change.erased.append(one.rest[chosen.page == number])


def _group_plans(state: ModelState, plans: Sequence[ErasePlan]) -> Iterator[Sequence[ErasePlan]]:
    """Group plans whose pages fit in the bank together, and where possible in one program."""
    part, pages = list[ErasePlan](), 0
    for one in (one for one in plans if one.error is None and one.changes):
        if (count := len(one.changes)) > state.bank.capacity:
            one.error = BankFull(
                f"the patterns to be erased lie in {count} pages of memory {one.job.memory.name!r}, and the bank holds "
                f"{state.bank.capacity}: erase fewer at a time, or raise --bank-memory-mib"
            )
            continue
        if part and pages + count > state.limit:
            yield part
            part, pages = [], 0
        part, pages = [*part, one], pages + count
    if part:
        yield part


def _apply(state: ModelState, plans: Sequence[ErasePlan]) -> Stops[None]:
    failed = state.bank.bring([page for one in plans for page in one.changes])
    for one in plans:
        one.error = next((failed[page] for page in one.changes if page in failed), None)
    yield from _publish(state, [one for one in plans if one.error is None])


def _publish(state: ModelState, plans: Sequence[ErasePlan]) -> Stops[None]:
    """Compute the pages, and put those of plans that are finite throughout in the bank."""
    changes = [change for one in plans for change in one.changes.values()]
    if not changes:
        return
    fast = yield from _compute_changes(state, changes)
    finite = dict(zip(changes, find_finite_rows(fast), strict=False))
    for one in plans:
        if not all(finite[change] for change in one.changes.values()):
            one.error = WriteDiverged(describe_divergence(one.job, "erasing"))
    finished = [one for one in plans if one.error is None]
    done = [change for one in finished for change in one.changes.values()]
    rows = [row for row, change in enumerate(changes) if change in done and not change.empties]
    state.bank.bring([change.page for change in changes])
    failed = publish(state, [changes[row].page for row in rows], select_rows(fast, rows))
    for one in finished:
        one.error = next((failed[page] for page in one.changes if page in failed), None)
    for one in (one for one in finished if one.error is None):
        for change in one.changes.values():
            if change.empties:
                state.bank.release(change.page)
            change.page.patterns, change.page.kept = change.left, one.keeps(change)


def _erase_beside(state: ModelState, plan: ErasePlan) -> Results:
    """Erase with stops: changed pages are made beside those of the memory, and take their places all at once."""
    job, memory = plan.job, plan.job.memory
    new: dict[Page, Page] = {}
    draft = draft_of(state, memory)
    try:
        for part in _cut_changes(state, list(plan.changes.values())):
            yield from _change_beside(state, plan, part, new)
            if draft is not None:
                made = {new[change.page]: change for change in part}
                draft.add(describe_erase(state.bank, plan, made, memory.version + 1))
            yield None
        outcome = Erased(
            memory.version + 1, sum(new.get(page, page).patterns for page in memory.pages), _count_items(plan)
        )
        if draft is not None:
            end_erase(state, draft, plan, outcome)
    except BaseException as error:
        release(new.values())
        if draft is not None:
            draft.discard()
        if not isinstance(error, Exception):  # it does not go on after a stop
            raise
        yield job, error if isinstance(error, ServerError) else log_fault(error, "erasing", 1)
        return
    memory.pages[:] = [new.get(page, page) for page in memory.pages]
    memory.version, memory.patterns = outcome.version, outcome.patterns
    memory.touch()
    yield from release_by_and_by(state, new)
    if draft is not None:
        yield from draft.forget_old()
    yield job, outcome


def _change_beside(
    state: ModelState, plan: ErasePlan, changes: Sequence[PageEdit], new: MutableMapping[Page, Page]
) -> Stops[None]:
    """Make the changed pages, each noted in `new` by the page that it replaces.

    Raises:
        ServerError: they cannot be made.
    """
    for error in state.bank.bring([change.page for change in changes]).values():
        raise error
    fast = yield from _compute_changes(state, changes)
    if not all(find_finite_rows(fast)[: len(changes)]):
        raise WriteDiverged(describe_divergence(plan.job, "erasing"))
    for change in changes:
        new[change.page] = Page(number=change.page.number, patterns=change.left, kept=plan.keeps(change))
    rows = [row for row, change in enumerate(changes) if not change.empties]
    for error in publish(state, [new[changes[row].page] for row in rows], select_rows(fast, rows)).values():
        raise error


def _cut_changes(state: ModelState, changes: Sequence[PageEdit]) -> Iterator[Sequence[PageEdit]]:
    """Cut the changes into parts of few pages and few patterns that are written or erased, or of a single page."""
    part, patterns = list[PageEdit](), 0
    for change in changes:
        count = 1 + ERASING * change.count + (0 if change.kept is None else len(change.kept))
        if part and (patterns + count > PART_READS or len(part) >= state.part_limit):
            yield part
            part, patterns = [], 0
        part, patterns = [*part, change], patterns + count
    yield part


def _compute_changes(state: ModelState, changes: Sequence[PageEdit]) -> Stops[Tensors]:
    """Return the pages' fast weights, rewritten with what they keep and after the eraser, each (pages, *shape)."""
    fast = yield from _rewrite_pages(state, changes)
    return (yield from _run_eraser(state, changes, fast))


def _rewrite_pages(state: ModelState, changes: Sequence[PageEdit]) -> Stops[Tensors]:
    """Return the pages' fast weights, those that are rewritten with what they keep, each (pages, *shape)."""
    rows = state.count_rows(len(changes))
    starts = [change.page if change.kept is None else Page() for change in changes]
    fast = state.copy_pages(starts, rows)
    kept = [_no_values(state) if change.kept is None else change.kept for change in changes]
    if not any(map(len, kept)):
        return fast
    fast = fit_frames(state, fast, kept, [change.framed and change.kept is not None for change in changes])
    framed = any(change.framed for change in changes)
    new = yield from add_in_parts(state, fast, kept, [0] * len(changes), framed=framed)
    anew = state.make_column([len(one) for one in kept], rows) > 0
    return {
        name: torch.where(anew.reshape(-1, *[1] * (value.dim() - 1)), new[name], value) for name, value in fast.items()
    }


def _run_eraser(state: ModelState, changes: Sequence[PageEdit], fast: Tensors) -> Stops[Tensors]:
    """Return the fast weights after the eraser, each (pages, *shape); stop after each few patterns of a page."""
    model = state.model
    erased = [
        concatenate(change.erased) if change.erased and not change.empties else _no_values(state) for change in changes
    ]
    if not any(map(len, erased)):
        return fast
    grid = state.pad([len(one) for one in erased])
    frames = state.find_frames(any(change.framed for change in changes), fast)
    x = model.encode(state.to_device(grid.spread(concatenate(erased))), frames)
    present, stored = (
        state.to_device(grid.present),
        state.make_column([change.before for change in changes], grid.shape[0]),
    )
    for some, here in zip(x.split(ERASED_TOGETHER, 1), present.split(ERASED_TOGETHER, 1), strict=True):
        weights = weights_of(fast)
        left = erase_by_training(model.network, model.parameters, weights, some, present=here, stored=stored)
        fast = {**fast, **left}
        stored = stored - here.sum(1)
        yield
    return fast


def _no_values(state: ModelState) -> Floats:
    return np.zeros((0, state.model.layout.size), np.float32)


def _count_erase(plan: ErasePlan) -> Erased:
    """Count an erase whose pages have changed."""
    memory, items = plan.job.memory, _count_items(plan)
    memory.version += 1
    memory.touch()
    memory.patterns = sum(page.patterns for page in memory.pages)
    return Erased(version=memory.version, patterns=memory.patterns, items=items)


def _count_items(plan: ErasePlan) -> int | None:
    return None if plan.job.values is not None else plan.taken
