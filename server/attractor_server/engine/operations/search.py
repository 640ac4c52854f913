"""Search: a cue is read as a query's is, and the kept patterns that it means are ranked, with what they carry."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from attractor_server.energy.posterior import AGREEMENTS, NONE, Posterior
from attractor_server.engine.batch import MemoryBatch, ModelState, Results, Stops
from attractor_server.engine.operations.hits import Candidates, HitLister
from attractor_server.engine.operations.reading import read, run_program
from attractor_server.engine.operations.scores import Scored
from attractor_server.engine.operations.scoring import score_kept
from attractor_server.errors import NotKept, ServerError
from attractor_server.memories.outcomes import Recalled
from attractor_server.memories.search import Found
from attractor_server.scheduling.jobs import Job

COSINE = Posterior(weights=torch.eye(len(AGREEMENTS))[0], none=torch.zeros(len(NONE)))
"""Scores that are the cosines with the cue"""


def search(state: ModelState, batches: Sequence[MemoryBatch]) -> Results:
    """Find what the cues mean: with the patterns that are kept, whatever answers queries of their memories."""
    limit = state.limit_reads(job for batch in batches for job in batch.jobs)
    ready, entered = list[tuple[Job, Recalled]](), dict[Job, Tensor]()
    program = partial(read, compared=lambda _: True)
    for answered in run_program(state, batches, program, limit=limit, contests=True, entered=entered):
        if answered is None:
            yield None
        elif isinstance(answered[1], Recalled):
            ready.append((answered[0], answered[1]))
        else:
            yield answered
    if state.store is None or state.patterns is None:
        yield from ((job, NotKept("search: this server keeps no patterns")) for job, _ in ready)
        return
    candidates, failed = yield from _score(state, ready, entered)
    yield from failed.items()
    for one in candidates:
        choosing = _choose(HitLister(state.store, state.patterns, one))
        yield one.job, (yield from state.patterns.aside.make(one.job, choosing) if one.job.cut else choosing)


def _score(
    state: ModelState, read_cues: Sequence[tuple[Job, Recalled]], entered: Mapping[Job, Tensor]
) -> Stops[tuple[Sequence[Candidates], Mapping[Job, ServerError]]]:
    """Return the candidates of each job, and why some of the jobs failed."""
    if not read_cues:
        return [], {}
    scored, failed = yield from score_kept(state, read_cues, state.model.posterior or COSINE, entered)
    found = {one.job: one for some in scored for one in _split(state, some)}
    return [found.get(job) or _nothing(state, job) for job, _ in read_cues if job not in failed], failed


def _split(state: ModelState, scored: Scored) -> Sequence[Candidates]:
    """Return the candidates of each job that has some."""
    assert scored.cosines is not None
    ends = np.cumsum(scored.counts)
    number = np.repeat(scored.number, scored.counts)
    at = np.arange(ends[-1]) - np.repeat(ends - scored.counts, scored.counts)
    found = []
    for row, (job, _) in enumerate(scored.asked):  # a job has one cue
        own = slice(int(scored.starts[row]), int(scored.starts[row + 1]))
        none = None if state.model.posterior is None else float(scored.none[row])
        found.append(
            Candidates(
                job=job,
                page=number[own],
                at=at[own],
                scores=scored.scores[own],
                cosines=scored.cosines[own],
                none=none,
                log_kept=_log_kept(state),
            )
        )
    return found


def _nothing(state: ModelState, job: Job) -> Candidates:
    """Return the candidates of a job whose memory keeps no patterns."""
    empty, zeros = np.zeros(0, np.int64), np.zeros(0, np.float32)
    none = None if state.model.posterior is None else 0.0
    return Candidates(job=job, page=empty, at=empty, scores=zeros, cosines=zeros, none=none, log_kept=0.0)


def _log_kept(state: ModelState) -> float:
    """Return the weight of the logarithm of the number of patterns in the score of "none of them"."""
    posterior = state.model.posterior
    return 0.0 if posterior is None else float(posterior.none[NONE.index("log_kept")])


def _choose(lister: HitLister) -> Stops[Found | ServerError]:
    """Return what is found among the candidates."""
    try:
        return (yield from lister.list_hits())
    except ServerError as error:
        return error
