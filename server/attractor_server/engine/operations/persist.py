"""Commits of batches: changes of memories go to the backend store before anybody gets an answer."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TypeVar

from attractor_server.engine.batch import ModelState
from attractor_server.engine.operations.draft import Draft
from attractor_server.engine.operations.erase_plans import ErasePlan
from attractor_server.engine.operations.erase_plans import PageEdit as PageChange
from attractor_server.engine.operations.plans import PagePart, StorePlan
from attractor_server.engine.pages.bank import Bank
from attractor_server.engine.pages.page_images import export_images
from attractor_server.errors import CommitUnknown, QuotaExceeded, ServerError, Unavailable
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.names import namespace_of
from attractor_server.memories.outcomes import Erased, Outcome, Stored
from attractor_server.memories.page import Page
from attractor_server.memories.records import Change, Entry, WriteAck
from attractor_server.memories.store import MemoryStore
from attractor_server.scheduling.failures import log_fault
from attractor_server.scheduling.jobs import Job

PATIENCE_S = 1.0
"""Commits that fail may take so long in sum, until the members of a batch are tried in parts no more"""

_Kept = TypeVar("_Kept", StorePlan, ErasePlan)


def keep_stores(state: ModelState, plans: Sequence[StorePlan], drafts: Mapping[StorePlan, Draft]) -> None:
    """Commit what was applied. Where that fails, the jobs fail, and their memories are as the store has them.

    Of a plan with a draft the store has new pages by now, which come into their places.
    """
    kept = [one for one in plans if one.memory.id]
    if state.store is None or state.patterns is None or not kept:
        return
    # What is cached of the changed pages is out of date.
    for page in {part.page for one in kept for part in one.parts}:
        state.patterns.invalidate(page)
    # Changes without a draft are committed together; a draft ends in a commit of its own.
    changes, failed = _collect_changes(kept, lambda one: _describe_stores(state.bank, one, drafts.get(one)))
    with state.recorder.span("commit"):
        failed |= _commit(state.store, {one: change for one, change in changes.items() if one not in drafts})
    for one in (one for one in drafts if one in changes):
        try:
            drafts[one].end(changes[one])
        except Exception as error:
            failed[one] = _make_failure(error, 1)
    # Replaced bytes leave the files before a store is acknowledged.
    if replacing := [one for one in kept if one.replaced and one not in failed]:
        try:
            state.store.purge()
        except Exception as error:
            failed |= dict.fromkeys(replacing, _make_failure(error, len(replacing)))
    # A memory whose commit failed goes back to what the store has.
    for one in kept:
        if one in failed:
            one.outcomes |= dict.fromkeys(one.jobs, _explain(failed[one], one))
            invalidate(state.bank, one.memory)
            one.take_back()
        else:
            one.memory.forgot(len(changes[one].departed))


def keep_erases(
    state: ModelState, plans: Sequence[ErasePlan], outcomes: Mapping[Job, Outcome | ServerError]
) -> Mapping[Job, ServerError]:
    """Commit what was erased; return the jobs that fail by that, whose memories are as the store has them."""
    kept = [one for one in plans if one.error is None and one.job.memory.id]
    if state.store is None or state.patterns is None or not kept:
        return {}
    # What is cached of the changed pages is out of date.
    for page in {page for one in kept for page in one.changes}:
        state.patterns.invalidate(page)
    # All changes are committed together.
    changes, failed = _collect_changes(kept, lambda one: _describe_one_erase(state.bank, one, outcomes[one.job]))
    with state.recorder.span("commit"):
        failed |= _commit(state.store, changes)
    for one in failed:
        one.take_back()
    # Erased bytes leave the files before an erase is acknowledged.
    if len(failed) < len(kept):
        try:
            state.store.purge()
        except Exception as error:
            failed = dict.fromkeys(kept, _make_failure(error, len(kept))) | failed
    # Memories of those that failed are loaded again from the store.
    for one in failed:
        invalidate(state.bank, one.job.memory)
    return {one.job: failure for one, failure in failed.items()}


def end_erase(state: ModelState, draft: Draft, plan: ErasePlan, outcome: Erased) -> None:
    """Commit an erase whose pages a draft has.

    Raises:
        Exception: that failed, and its memory is as the store has it.
    """
    job = plan.job
    told = list_acks([(job, outcome)])
    try:
        change = Change(memory=job.memory.id, version=outcome.version, patterns=outcome.patterns, told=told)
        draft.end(plan.describe(change))
    except Exception:
        invalidate(state.bank, job.memory)
        raise


def _collect_changes(
    kept: Sequence[_Kept], change: Callable[[_Kept], Change]
) -> tuple[dict[_Kept, Change], dict[_Kept, ServerError]]:
    """Return the changes of those that have one, and the errors of the others."""
    changes: dict[_Kept, Change] = {}
    failed: dict[_Kept, ServerError] = {}
    for one in kept:
        try:
            changes[one] = change(one)
        except Exception as error:
            failed[one] = _make_failure(error, 1)
    return changes, failed


def _commit(store: MemoryStore, changes: Mapping[_Kept, Change]) -> dict[_Kept, ServerError]:
    """Commit all changes together; where that fails by halves, so that a change that cannot be kept fails alone.

    Where a namespace would have more than it may, the others' are committed without it, whatever time that takes. A
    store that fails slowly, as one that is locked does, is not asked again for each. Return those that failed.
    """
    failed: dict[_Kept, ServerError] = {}
    waiting: list[list[_Kept]] = [list(changes)] if changes else []
    spent_s = 0.0
    while waiting:
        part = waiting.pop()
        started_s = perf_counter()
        try:
            store.commit([changes[one] for one in part])
        except QuotaExceeded as error:
            if len(part) > 1:
                waiting += _split(part, error.namespace)
            else:
                failed[part[0]] = error
        except Exception as error:
            spent_s += perf_counter() - started_s
            if spent_s > PATIENCE_S:
                for others in waiting:
                    part.extend(others)
                waiting.clear()
            elif len(part) > 1 and not isinstance(error, CommitUnknown):
                half = len(part) // 2
                waiting += [part[half:], part[:half]]
                continue
            failed |= dict.fromkeys(part, _make_failure(error, len(part)))
    return failed


def _explain(failure: ServerError, plan: StorePlan) -> ServerError:
    """Return why the jobs of a plan fail: one that exceeds a quota may do so together with others, and not alone."""
    if isinstance(failure, QuotaExceeded) and len(plan.jobs) > 1:
        return Unavailable(f"not all stores that came together were within a quota; try again ({failure.message})")
    return failure


def _split(part: Sequence[_Kept], namespace: str) -> Sequence[list[_Kept]]:
    """Return two parts: those of that namespace and the others, which come last; or halves, where all are of it."""
    others = [one for one in part if namespace_of(_get_memory(one).name) != namespace]
    if not others:
        half = len(part) // 2
        return list(part[half:]), list(part[:half])
    return [one for one in part if one not in others], others


def _get_memory(plan: StorePlan | ErasePlan) -> MemoryRecord:
    return plan.memory if isinstance(plan, StorePlan) else plan.job.memory


def _make_failure(error: Exception, memories: int) -> ServerError:
    return error if isinstance(error, ServerError) else log_fault(error, "commit", memories)


def invalidate(bank: Bank, memory: MemoryRecord) -> None:
    """Forget a memory's pages and counts here: they come from the store when they are next needed."""
    for page in memory.pages:
        bank.release(page)
    memory.at_hand = False


def keep_new(state: ModelState, plan: StorePlan, draft: Draft, pages: Collection[Page]) -> None:
    """Have the draft keep new pages of the plan, which are in the bank.

    Raises:
        ServerError: the store failed.
    """
    draft.add(_describe_pages(state.bank, plan, [part for part in plan.parts if part.page in pages]))


def _describe_stores(bank: Bank, plan: StorePlan, draft: Draft | None) -> Change:
    """Describe how the stores of a memory changed it, but for the pages that a draft has."""
    memory, there = plan.memory, draft.numbers if draft is not None else set()
    gone = {*plan.dropped, *(part.page for part in plan.parts if part.page.number in there)}
    content = _describe_pages(bank, plan, [part for part in plan.parts if part.page not in gone])
    return plan.describe(
        replace(
            content,
            dropped=[page.number for page in plan.dropped],
            told=list_acks((job, plan.outcomes[job]) for job in plan.jobs),
            departed=tuple(memory.departed or ()),
        )
    )


def _describe_pages(bank: Bank, plan: StorePlan, parts: Sequence[PagePart]) -> Change:
    """Describe what came into pages: entries, and images of those that are sealed by now.

    Where patterns of open pages alone are retained, a page loses its entries as it is sealed.
    """
    memory, edited = plan.memory, set(plan.replaced.values())
    first = min((part.version for part in plan.parts if part.page not in edited), default=plan.version)
    given = dict.fromkeys(part.page for part in parts)
    sealed = [page for page in given if _is_sealed(plan, page)]
    bare = [] if memory.settings.retain == "all" else sealed
    return Change(
        memory=memory.id,
        version=plan.version,
        patterns=plan.patterns,
        emptied=[page.number for page in given if page in edited or page in bare],
        pages={page.number: page.patterns for page in given},
        entries=[
            Entry(
                page=part.page.number,
                version=part.version,
                written=part.version if part.page in edited else first,
                values=part.values,
                items=part.items,
            )
            for part in parts
            if part.page not in bare and len(part.values)
        ],
        images=export_images(bank, sealed, plan.version),
    )


def _is_sealed(plan: StorePlan, page: Page) -> bool:
    """Return whether a page has an image of its weights: it is full, or behind another one that was opened since."""
    return plan.memory.settings.seals(page.patterns) or (page.patterns > 0 and not plan.fills(page))


def _describe_one_erase(bank: Bank, plan: ErasePlan, outcome: Outcome | ServerError) -> Change:
    """Describe how an erase changed its memory: of a changed page nothing stays but what it was rewritten with."""
    content = describe_erase(bank, plan, plan.changes, plan.job.memory.version)
    return plan.describe(replace(content, emptied=list(content.pages), told=list_acks([(plan.job, outcome)])))


def describe_erase(bank: Bank, plan: ErasePlan, changes: Mapping[Page, PageChange], version: int) -> Change:
    """Describe what an erase leaves in pages, of which the bank has the new weights.

    These are kept, too, unless it is the page to be filled, and follows from its patterns.
    """
    memory = plan.job.memory
    kept = {page: one for page, one in changes.items() if one.kept is not None and not one.erased}
    filled = memory.pages[-1] if memory.pages else None
    bare = [page for page, one in changes.items() if page not in kept or (one.page is not filled and page.patterns)]
    return Change(
        memory=memory.id,
        version=version,
        patterns=memory.patterns,
        pages={page.number: page.patterns for page in changes},
        entries=[
            Entry(page=page.number, version=version, written=version, values=one.kept, items=one.items)
            for page, one in kept.items()
            if one.kept is not None and len(one.kept)
        ],
        images=export_images(bank, bare, version),
        erases=True,
    )


def list_acks(answered: Iterable[tuple[Job, object]]) -> Sequence[WriteAck]:
    """List the acknowledgements of jobs that have a sequence number."""
    return [
        WriteAck(
            client=job.client_id,
            sequence=job.sequence,
            version=outcome.version,
            patterns=outcome.patterns,
            erases=isinstance(outcome, Erased),
            digest=job.digest,
        )
        for job, outcome in answered
        if job.sequence and isinstance(outcome, Stored | Erased)
    ]
