"""Queries and recognition: reading by the network, and then the part that kept patterns take."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from attractor_server.engine.batch import MemoryBatch, ModelState, Results, Stops
from attractor_server.engine.operations.matching import find_matches, list_matches
from attractor_server.engine.operations.posterior import mean_of, reread, settle, weigh
from attractor_server.engine.operations.reading import group_rows, read, recognize_alone, run_program, run_rows
from attractor_server.engine.operations.route import PageQuery
from attractor_server.engine.operations.scores import Ranked, Scored
from attractor_server.engine.operations.scoring import score_kept
from attractor_server.errors import NotKept, ServerError
from attractor_server.memories.outcomes import Floats, Outcome, Recalled, Recognized
from attractor_server.memories.page import Page
from attractor_server.scheduling.failures import log_fault
from attractor_server.scheduling.jobs import Job


def query(state: ModelState, batches: Sequence[MemoryBatch]) -> Results:
    """Read what the cues lead to in the chosen pages; then kept patterns take part, and are listed where asked for.

    Of two pages that are about as probable, the one answers whose answer is nearer to the cue.
    """
    ready = list[tuple[Job, Outcome | ServerError]]()
    for answered in _read_all(state, batches, contests=True):
        if answered is not None:
            ready.append(answered)
            continue
        yield from _settle(state, ready)
        ready = []
        yield None
    yield from _settle(state, ready)


def recognize(state: ModelState, batches: Sequence[MemoryBatch]) -> Results:
    """Tell how familiar patterns are: by the kept patterns, or else by the page that knows each best."""
    ready, alone = list[tuple[Job, Outcome | ServerError]](), set[Job]()
    if beside := _select(batches, state.compares):
        for answered in _read_all(state, beside, contests=False):
            if answered is None:
                yield None
            else:
                ready.append(answered)
    for settled in _settle(state, ready):
        if settled is None or not isinstance(settled[1], Recalled):
            yield settled
        elif settled[1].probability is None:
            alone.add(settled[0])
        else:
            yield settled[0], _familiarity_of(settled[1])
    if some := _select(batches, lambda job: not state.compares(job) or job in alone):
        limit = state.limit_reads(job for one in some for job in one.jobs)
        yield from run_program(state, some, recognize_alone, limit=limit, contests=False)


def _select(batches: Sequence[MemoryBatch], chosen: Callable[[Job], bool]) -> Sequence[MemoryBatch]:
    """Return the batches with the chosen jobs alone."""
    some = [MemoryBatch(one.memory, [job for job in one.jobs if chosen(job)]) for one in batches]
    return [one for one in some if one.jobs]


def _read_all(state: ModelState, batches: Sequence[MemoryBatch], *, contests: bool) -> Results:
    limit = state.limit_reads(job for batch in batches for job in batch.jobs)
    return run_program(state, batches, partial(read, compared=state.compares), limit=limit, contests=contests)


def _familiarity_of(recalled: Recalled) -> Recognized:
    return Recognized(
        energy=recalled.energy_before,
        delta_energy=recalled.delta_energy,
        probability=recalled.probability,
        pages=recalled.pages,
    )


def _settle(state: ModelState, ready: Sequence[tuple[Job, Outcome | ServerError]]) -> Results:
    """Yield the answers, in which kept patterns take part where they are to, with the matches that are asked for."""
    compared = [(job, one) for job, one in ready if isinstance(one, Recalled) and one.directions is not None]
    ranked: dict[Job, Ranked] = {}
    failed: dict[Job, ServerError] = {}
    try:
        if compared:
            failed |= yield from _take_part(state, compared, ranked)
    except Exception:  # of one of them: what was answered stands, and the others are tried one by one
        for one in [one for one in compared if one[1].probability is None]:
            try:
                failed |= yield from _take_part(state, [one], ranked)
            except Exception as error:
                failed[one[0]] = error if isinstance(error, ServerError) else log_fault(error, "posterior", 1)
    for job, outcome in ready:
        answer = failed.get(job, outcome)
        if isinstance(answer, Recalled):
            answer.directions = None
            if job.matches:
                answer = yield from _add_matches(state, job, answer, ranked.get(job))
        yield job, answer


def _take_part(
    state: ModelState, answered: Sequence[tuple[Job, Recalled]], ranked: dict[Job, Ranked]
) -> Stops[dict[Job, ServerError]]:
    """Make the posterior's answers of the network's, and rank the patterns for those that ask; return what failed."""
    scored, failed = yield from score_kept(state, answered)
    for some in scored:
        ranked |= some.list_ranks()
        mean = mean_of(state, some)
        again = yield from _read_again(state, some, mean.values)
        settle(some, weigh(state, some, mean, again))
        yield
    return failed


def _read_again(state: ModelState, scored: Scored, means: Floats) -> Stops[Floats]:
    """Return what the network reads from the means that several patterns share, and the other means as they are."""
    asked = reread(scored, means)
    if not asked:
        return means
    found, rows_of = means.copy(), {job: rows for job, _, _, rows in asked}
    queries: dict[Page, PageQuery] = {}
    for job, number, some, _ in asked:
        page = job.memory.pages[number]
        one = queries.setdefault(page, PageQuery(page, number, 1, [], 0, framed=job.memory.settings.framed))
        one.parts, one.size = [*one.parts, (job, some, len(some))], one.size + len(some)
    cut = any(job.cut for job in rows_of)
    for part in group_rows(list(queries.values()), state.limit_reads(rows_of), cut=cut):
        for job, chosen, answer in run_rows(state, part, read):
            if isinstance(answer, Recalled):
                found[np.arange(len(found))[rows_of[job]][chosen]] = answer.values
        yield
    return found


def _add_matches(
    state: ModelState, job: Job, recalled: Recalled, ranked: Ranked | None
) -> Stops[Recalled | ServerError]:
    """Add the patterns that are meant most probably; where the network answers alone, those nearest to its answer."""
    if state.patterns is None:
        return NotKept("match: this server keeps no patterns: start it without `--durable no`")
    layout = state.model.layout
    try:
        if ranked is not None:
            recalled.matches = yield from list_matches(state.patterns, job.memory, layout, recalled.values, ranked)
            return recalled
        searching = find_matches(state.patterns, job.memory, layout, recalled.values, each=job.matches)
        recalled.matches = yield from state.patterns.aside.make(job, searching) if job.cut else searching
    except ServerError as error:
        return error
    except Exception as error:
        return log_fault(error, "match", 1)
    return recalled
