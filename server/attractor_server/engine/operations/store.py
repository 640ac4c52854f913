"""Stores: a page is rewritten with all its patterns, or added to; the stores of one memory are one write."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.engine import compute
from attractor_server.engine.batch import (
    PART_READS,
    MemoryBatch,
    ModelState,
    PaddedBatch,
    Results,
    Stops,
    chunks,
    concatenate,
    run_to_end,
)
from attractor_server.engine.bisection import by_halves
from attractor_server.engine.operations.conflicts import Conflicts, find_conflicts, split_runs
from attractor_server.engine.operations.draft import Draft, draft_of
from attractor_server.engine.operations.persist import keep_new, keep_stores
from attractor_server.engine.operations.plans import PageWrite, StorePlan
from attractor_server.engine.operations.similar import find_similar
from attractor_server.errors import ServerError, StoreFailed, WriteDiverged
from attractor_server.memories.outcomes import Floats
from attractor_server.memories.page import Page
from attractor_server.scheduling.failures import describe_divergence, log_fault


def store(state: ModelState, batches: Sequence[MemoryBatch]) -> Results:
    """Apply the stores of each memory together or not at all; where they diverge together, one after another.

    New pages first: nobody sees them before the memory's own page, at most one, has its new weights, too.
    """
    plans, apart = list[StorePlan](), list[list[MemoryBatch]]()
    runs = [list(split_runs(batch)) for batch in batches]
    if any(len(one) > 1 for one in runs):
        yield from _store_in_turns(state, runs)
        return
    for batch in batches:
        if len(batch.jobs) > 1 and not _may_have_room(state, batch):  # for all of them, but perhaps for some
            apart.append([MemoryBatch(batch.memory, [job]) for job in batch.jobs])
            continue
        try:
            similar = {} if state.patterns is None else (yield from find_similar(state.patterns, batch))
            plans.append(StorePlan(batch, _find_conflicts(state, batch), similar))
        except ServerError as error:
            if len(batch.jobs) > 1:  # which is not the fault of all
                apart.append([MemoryBatch(batch.memory, [job]) for job in batch.jobs])
            else:
                yield batch.jobs[0], error
        except Exception as error:
            yield from dict.fromkeys(batch.jobs, log_fault(error, "store", 1)).items()
    drafts = _start_drafts(state, plans) if batches and batches[0].cut else {}
    try:
        yield from _write_all(state, plans, drafts, cut=batches[0].cut if batches else False)
    except GeneratorExit:  # it does not go on after a stop
        for page in (write.page for one in plans for write in one.writes if write.new):
            state.bank.release(page)
        for draft in drafts.values():
            draft.discard()
        raise
    singly = [one for one in plans if isinstance(one.error, WriteDiverged) and len(one.jobs) > 1]
    for one in plans:
        _settle(state, one)
    keep_stores(state, [one for one in plans if one.error is None and one.jobs], drafts)
    for one, draft in drafts.items():
        if one.error is None:
            yield from draft.forget_old()
        else:
            draft.discard()
    for one in plans:
        yield from ((job, outcome) for job, outcome in one.outcomes.items() if one not in singly or job not in one.jobs)
    apart += [[MemoryBatch(one.memory, [job]) for job in one.jobs] for one in singly]
    yield from _store_in_turns(state, apart)


def _store_in_turns(state: ModelState, runs: Sequence[Sequence[MemoryBatch]]) -> Results:
    """Apply batches of one memory one after another, each with those of other memories."""
    for turn in zip_longest(*runs):
        batches = [batch for batch in turn if batch is not None]
        for batch in (batch for batch in batches if not batch.memory.at_hand):  # a commit failed in an earlier turn
            failure = StoreFailed("the store failed with what came before this; try again")
            yield from dict.fromkeys(batch.jobs, failure).items()
        yield from store(state, [batch for batch in batches if batch.memory.at_hand])


def _may_have_room(state: ModelState, batch: MemoryBatch) -> bool:
    values = [job.values for job in batch.jobs if job.values is not None]
    items, size_bytes = sum(map(len, values)), sum(one.nbytes for one in values)
    name = batch.memory.name
    return state.store is None or state.store.may_have_room(name, items=items, size_bytes=size_bytes)


def _find_conflicts(state: ModelState, batch: MemoryBatch) -> Conflicts | None:
    """Return what the memory has of the ids that a batch names; None where nothing is kept or asked for."""
    if state.store is None or state.patterns is None or not batch.memory.id:
        return None
    return find_conflicts(state.store, state.patterns, batch)


def _start_drafts(state: ModelState, plans: Iterable[StorePlan]) -> Mapping[StorePlan, Draft]:
    """Start drafts for the plans that make several pages, and are kept."""
    drafts = {one: draft_of(state, one.memory) for one in plans if sum(write.new for write in one.writes) > 1}
    return {one: draft for one, draft in drafts.items() if draft is not None}


def _write_all(
    state: ModelState, plans: Sequence[StorePlan], drafts: Mapping[StorePlan, Draft], *, cut: bool
) -> Stops[None]:
    """Write all pages; where it is cut, of few patterns at a time, with a stop between."""
    for new in (True, False):
        writes = [write for one in plans if one.error is None for write in one.writes if write.new is new]
        limit = state.limit
        if cut and writes:
            limit = min(state.part_limit, max(1, PART_READS // max(write.size for write in writes)))
        for part in chunks(writes, lambda write: write.size, limit):
            yield from _write(state, part)
            if new:
                yield
                for one in drafts:
                    _keep_new(state, one, drafts[one], [write.page for write in part if write.plan is one])
                yield


def _keep_new(state: ModelState, plan: StorePlan, draft: Draft, pages: Sequence[Page]) -> None:
    """Keep these pages in the draft, unless the plan fails."""
    try:
        if plan.error is None and pages:
            keep_new(state, plan, draft, pages)
    except Exception as error:
        plan.error = error if isinstance(error, ServerError) else log_fault(error, "store", 1)


def find_finite_rows(fast: Tensors) -> list[bool]:
    """Return for each page whether all its tensors, each (pages, *shape), are finite."""
    finite: list[bool] = torch.stack([tensor.isfinite().flatten(1).all(1) for tensor in fast.values()]).all(0).tolist()
    return finite


def select_rows(fast: Tensors, rows: Sequence[int]) -> Tensors:
    """Return the tensors of these pages alone."""
    return {name: tensor[list(rows)] for name, tensor in fast.items()}


def _settle(state: ModelState, plan: StorePlan) -> None:
    """Apply a plan whose pages are all written; release the written pages of another."""
    if plan.error is None:
        gone = [*plan.dropped, *plan.replaced]
        plan.apply()
    else:
        gone = [write.page for write in plan.writes if write.new]
        plan.outcomes |= dict.fromkeys(plan.jobs, plan.error)
    for page in gone:
        state.bank.release(page)
        if state.patterns is not None and page in plan.replaced:
            state.patterns.invalidate(page)


def publish(state: ModelState, pages: Sequence[Page], fast: Tensors) -> Mapping[Page, ServerError]:
    """Put the tensors, each (pages, *shape), in the bank; return the pages for which that failed, and why."""
    try:
        return state.bank.publish(pages, fast) if pages else {}
    except Exception as error:  # by which some may be there: nobody may compute them a second time
        return dict.fromkeys(pages, log_fault(error, "publication", len(pages)))


def _write(state: ModelState, writes: Sequence[PageWrite]) -> Stops[None]:
    def work(part: Sequence[PageWrite]) -> Stops[None]:
        failed = state.bank.bring([write.page for write in part])
        for write in part:
            write.plan.error = failed.get(write.page, write.plan.error)
        if ready := [write for write in part if write.page not in failed]:
            yield from _publish(state, ready)

    def fail(part: Sequence[PageWrite], error: Exception) -> None:
        for write in part:
            write.plan.error = log_fault(error, "store", 1)

    yield from by_halves(writes, work, fail)


def _publish(state: ModelState, writes: Sequence[PageWrite]) -> Stops[None]:
    """Compute the pages, with stops, and put those that are finite in the bank, with the patterns they keep."""
    anew = [write.rewrites for write in writes]
    before = [0 if new else write.page.patterns for write, new in zip(writes, anew, strict=True)]
    values = [_join_kept(write) if new else write.values for write, new in zip(writes, anew, strict=True)]
    starts = [Page() if new else write.page for write, new in zip(writes, anew, strict=True)]
    framed = [write.plan.memory.settings.framed for write in writes]
    fast = state.copy_pages(starts, state.count_rows(len(values)))
    fast = fit_frames(state, fast, values, [one and new for one, new in zip(framed, anew, strict=True)])
    with state.recorder.span("write"):
        fast = yield from add_in_parts(state, fast, values, before, framed=any(framed))
    rows = [row for row, ok in enumerate(find_finite_rows(fast)[: len(writes)]) if ok]
    failed = publish(state, [writes[row].page for row in rows], select_rows(fast, rows))
    for row, (write, patterns) in enumerate(zip(writes, values, strict=True)):
        if row not in rows:
            write.plan.error = WriteDiverged(describe_divergence(write.plan.jobs[0], "writing"))
        elif write.page in failed:
            write.plan.error = failed[write.page]
        else:
            write.page.patterns = before[row] + len(patterns)
            keeps = anew[row] and write.keeps(len(patterns))
            write.page.kept = patterns.copy() if keeps else None


def _join_kept(write: PageWrite) -> Floats:
    return write.values if write.page.kept is None else concatenate([write.page.kept, write.values])


def fit_frames(state: ModelState, fast: Tensors, values: Sequence[Floats], fitted: Sequence[bool]) -> Tensors:
    """Return the tensors of pages (rows, *shape), those that are `fitted` with frames of the values (n, d) for them."""
    if not any(fitted) or not state.model.frame_spans:
        return fast
    grid = PaddedBatch([max(1, len(one)) for one in values], rows=len(next(iter(fast.values()))))
    given = [one if len(one) else np.zeros((1, state.model.layout.size), np.float32) for one in values]
    counted = [len(one) if fit else 0 for one, fit in zip(values, fitted, strict=True)]
    counts = state.make_column(counted, grid.shape[0])
    present = torch.arange(grid.shape[1], device=counts.device) < counts[:, None]
    frames = state.model.fit_frames(state.to_device(grid.spread(concatenate(given))), present=present)
    if all(fitted):
        return {**fast, **frames}
    own = {name: torch.where(_beside(counts > 0, new), new, fast[name]) for name, new in frames.items()}
    return {**fast, **own}


def _beside(rows: Tensor, tensor: Tensor) -> Tensor:
    """Return one value a row with as many dimensions as the tensor has."""
    return rows.reshape(-1, *[1] * (tensor.dim() - 1))


def write_anew(
    state: ModelState, starts: Sequence[Page], values: Sequence[Floats], before: Sequence[int], framed: Sequence[bool]
) -> Tensors:
    """Return the tensors of the pages `starts`, which hold so many patterns, after writing values (n, d) in each.

    As many at a time as the model is written with best; a page with fewer patterns than others is done before them.
    Those that are `framed` get frames of these values, if they hold none yet.
    """
    fast = state.copy_pages(starts, state.count_rows(len(values)))
    fast = fit_frames(state, fast, values, [one and not held for one, held in zip(framed, before, strict=True)])
    return run_to_end(add_in_parts(state, fast, values, before, framed=any(framed)))


def add_in_parts(
    state: ModelState, fast: Tensors, values: Sequence[Floats], before: Sequence[int], *, framed: bool
) -> Stops[Tensors]:
    """Write as `write_anew` does, from tensors (rows, *shape), with a stop after each writing loop.

    Rows beyond the pages are padding. Frames have an effect where some page is `framed`.
    """
    size = state.model.write_chunk
    for start in range(0, max(map(len, values)), size):
        parts = [one[start : start + size] for one in values]
        rows = [row for row, part in enumerate(parts) if len(part)]
        stored = [before[row] + start for row in rows]
        if len(rows) == len(parts):
            fast = _write_chunk(state, fast, parts, stored, framed=framed)
            yield
            continue
        at = state.make_column(rows, len(rows))
        some = {name: tensor.index_select(0, at) for name, tensor in fast.items()}
        new = _write_chunk(state, some, [parts[row] for row in rows], stored, framed=framed)
        fast = {name: tensor.index_copy(0, at, new[name]) for name, tensor in fast.items()}
        yield
    return fast


def _write_chunk(
    state: ModelState, fast: Tensors, values: Sequence[Floats], before: Sequence[int], *, framed: bool
) -> Tensors:
    """Write values that go through the loop together; rows of `fast` beyond them are padding."""
    rows = len(next(iter(fast.values())))
    grid = PaddedBatch([len(one) for one in values], rows=rows)
    x = state.model.encode(state.to_device(grid.spread(concatenate(values))), state.find_frames(framed, fast))
    present: Tensor = state.to_device(grid.present)
    stored = state.make_column(before, rows)
    return {**fast, **compute.write_pages(state.model, fast, x, present=present, stored=stored)}
