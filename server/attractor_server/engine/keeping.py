"""Keeping: what a batch has done to memories goes to the backend store before anybody is told of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

from attractor_server.engine.bank import Bank
from attractor_server.engine.batch import Loaded
from attractor_server.engine.erasure import Erasure
from attractor_server.engine.faults import fault
from attractor_server.engine.filling import Filling
from attractor_server.engine.keeper import Keeper
from attractor_server.engine.page import Page
from attractor_server.engine.work import Erased, Job, Outcome, Record, Stored
from attractor_server.errors import CommitUnknown, ServerError
from attractor_server.storage.records import Change, Entry, Image, Told

PATIENCE_S = 1.0
"""Commits that fail may take so long in sum, until the members of a batch are tried in parts no more"""
_Kept = TypeVar("_Kept", Filling, Erasure)


def keep_stores(loaded: Loaded, fillings: Sequence[Filling]) -> None:
    """Commit what was applied. Where that fails, the jobs fail, and their memories are as the store has them."""
    kept = [one for one in fillings if one.memory.id]
    if loaded.keeper is None or loaded.kept is None or not kept:
        return
    for page in {part.page for one in kept for part in one.parts}:
        loaded.kept.changed(page)
    changes, failed = _changes(kept, lambda one: _by_stores(loaded.bank, one))
    failed |= _commit(loaded.keeper, changes)
    for one in kept:
        if one in failed:
            one.outcomes |= dict.fromkeys(one.jobs, failed[one])
            lose(loaded.bank, one.memory)
            one.take_back()
        else:
            one.memory.forgot(len(changes[one].departed))


def keep_erases(
    loaded: Loaded, erasures: Sequence[Erasure], outcomes: Mapping[Job, Outcome | ServerError]
) -> Mapping[Job, ServerError]:
    """Commit what was erased; return the jobs that fail by that, whose memories are as the store has them."""
    kept = [one for one in erasures if one.error is None and one.job.memory.id]
    if loaded.keeper is None or loaded.kept is None or not kept:
        return {}
    for page in {page for one in kept for page in one.changes}:
        loaded.kept.changed(page)
    changes, failed = _changes(kept, lambda one: _by_erase(loaded.bank, one, outcomes[one.job]))
    failed |= _commit(loaded.keeper, changes)
    for one in failed:
        one.take_back()
    if len(failed) < len(kept):
        try:
            loaded.keeper.purge()
        except Exception as error:
            failed = dict.fromkeys(kept, _failure(error, len(kept))) | failed
    for one in failed:
        lose(loaded.bank, one.job.memory)
    return {one.job: failure for one, failure in failed.items()}


def _changes(
    kept: Sequence[_Kept], change: Callable[[_Kept], Change]
) -> tuple[dict[_Kept, Change], dict[_Kept, ServerError]]:
    """The changes of those that have one, and the errors of the others."""
    changes: dict[_Kept, Change] = {}
    failed: dict[_Kept, ServerError] = {}
    for one in kept:
        try:
            changes[one] = change(one)
        except Exception as error:
            failed[one] = _failure(error, 1)
    return changes, failed


def _commit(keeper: Keeper, changes: Mapping[_Kept, Change]) -> dict[_Kept, ServerError]:
    """Commit all changes together; where that fails by halves, so that a change that cannot be kept fails alone.

    A store that fails slowly, as one that is locked does, is not asked again for each. Return those that failed.
    """
    failed: dict[_Kept, ServerError] = {}
    waiting: list[list[_Kept]] = [list(changes)] if changes else []
    spent_s = 0.0
    while waiting:
        part = waiting.pop()
        started_s = perf_counter()
        try:
            keeper.commit([changes[one] for one in part])
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
            failed |= dict.fromkeys(part, _failure(error, len(part)))
    return failed


def _failure(error: Exception, memories: int) -> ServerError:
    return error if isinstance(error, ServerError) else fault(error, "commit", memories)


def lose(bank: Bank, memory: Record) -> None:
    """Forgets what is at hand of a memory: it comes from the store when it is next needed."""
    for page in memory.pages:
        bank.release(page)
    memory.at_hand = False


def _by_stores(bank: Bank, filling: Filling) -> Change:
    """What the stores of a lane did to their memory: entries, and images of pages that are sealed by now.

    Where patterns of open pages alone are retained, a page loses its entries as it is sealed.
    """
    memory, first = filling.memory, filling.parts[0].version
    parts = [part for part in filling.parts if part.page not in filling.dropped]
    given = dict.fromkeys(part.page for part in parts)
    sealed = [page for page in given if memory.settings.seals(page.patterns)]
    bare = [] if memory.settings.retain == "all" else sealed
    return Change(
        memory=memory.id,
        version=memory.version,
        patterns=memory.patterns,
        dropped=[page.number for page in filling.dropped],
        emptied=[page.number for page in bare],
        pages={page.number: page.patterns for page in given},
        entries=[
            Entry(page=part.page.number, version=part.version, written=first, values=part.values, items=part.items)
            for part in parts
            if part.page not in bare
        ],
        images=images_of(bank, sealed, memory.version),
        told=_told((job, filling.outcomes[job]) for job in filling.jobs),
        departed=tuple(memory.departed or ()),
    )


def _by_erase(bank: Bank, erasure: Erasure, outcome: Outcome | ServerError) -> Change:
    """What an erase did to its memory: nothing stays of what a changed page had, but what it was rewritten with.

    Its weights are kept, too, unless it is the page to be filled, and follows from its patterns.
    """
    memory, changes = erasure.job.memory, erasure.changes
    numbers = [page.number for page in changes]
    kept = {page: one for page, one in changes.items() if one.kept is not None and not one.erased}
    bare = [page for page in changes if page not in kept or (page is not memory.pages[-1] and page.patterns)]
    return Change(
        memory=memory.id,
        version=memory.version,
        patterns=memory.patterns,
        emptied=numbers,
        pages={page.number: page.patterns for page in changes},
        entries=[
            Entry(page=page.number, version=memory.version, written=memory.version, values=one.kept, items=one.items)
            for page, one in kept.items()
            if one.kept is not None and len(one.kept)
        ],
        images=images_of(bank, bare, memory.version),
        told=_told([(erasure.job, outcome)]),
        erases=True,
    )


def images_of(bank: Bank, pages: Sequence[Page], version: int) -> Sequence[Image]:
    """The weights of these pages after that version of their memory."""
    images = []
    for page in pages:
        for error in bank.bring([page]).values():
            raise error
        images.append(Image(page=page.number, version=version, content=bank.image(page)))
    return images


def _told(answered: Iterable[tuple[Job, object]]) -> Sequence[Told]:
    """The answers to what is counted."""
    return [
        Told(
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
