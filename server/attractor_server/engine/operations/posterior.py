"""Recall by the posterior: the network's answers, and the patterns that their memories keep, weighed by one another.

See `energy.posterior` for what is computed.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from attractor_server.engine.batch import ModelState, concatenate
from attractor_server.engine.operations.scores import Scored
from attractor_server.memories.outcomes import Floats, Integers
from attractor_server.scheduling.jobs import Job

LEAST = 1e-7
"""Shares below it add nothing to a mean"""

SURE = 0.99
"""Share of a pattern from which on no other one has a part in the answer that is worth reading for"""

STRANGE = 0.95
"""Share of the reading in an answer from which on the patterns' mean is taken as it is"""

KNOWN = 0.5
"""Probability from which on a cue counts as one of a kept pattern"""


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean m of kept patterns for each row."""

    values: Floats
    """(rows, d) in user units: as decoded, what the network reads from"""
    encoded: Tensor
    """(rows, encoded values)"""
    u: Floats
    """(rows, values) value by value, as the patterns are kept"""


def mean_of(state: ModelState, scored: Scored) -> Mean:
    """Return the posterior's mean of the kept patterns alone."""
    means = np.zeros((len(scored.none), state.model.encoding.size), np.float32)
    scored.pairs.mix(scored.shares, means, least=LEAST)
    encoded = (state.to_device(means) - state.model.transform.shift) / state.model.transform.scale
    return Mean(_decode(state, encoded), encoded, means)


def _decode(state: ModelState, encoded: Tensor) -> Floats:
    values = state.model.encoding.decode(encoded)
    for field, span in state.model.layout.spans:
        if (limits := field.traits.recall_limits) is not None:
            values[..., span] = values[..., span].clamp(*limits)
    return values.float().cpu().numpy()


def weigh(state: ModelState, scored: Scored, mean: Mean, again: Floats) -> Floats:
    """Return the answers (rows, d), where the network has read `again` from the mean, or that was not asked for."""
    encode = state.model.encoding.encode
    reading = encode(state.to_device(concatenate([recalled.values for _, recalled in scored.asked])))
    kept = mean.encoded
    if again is not mean.values:
        second = encode(state.to_device(again))
        spread = np.zeros(len(again), np.float32)
        units = (1 / state.model.transform.scale).float().cpu().numpy()
        scored.pairs.spread(scored.shares, mean.u, units, spread, least=LEAST)
        lean = state.to_device(spread / np.maximum(spread + _squares(kept - second), np.finfo(np.float32).tiny))
        kept = kept.lerp(second, lean[:, None])
    return _decode(state, kept.lerp(reading, state.to_device(scored.unknown_share)[:, None]))


def _squares(gaps: Tensor) -> Floats:
    found: Floats = gaps.square().sum(-1).float().cpu().numpy()
    return found


def reread(scored: Scored, means: Floats) -> Sequence[tuple[Job, int, Integers, slice]]:
    """Return jobs that read from the means (rows, d) which several patterns share: with a page's number, which of the
    job's own rows, and where these all are.

    The page is that of the most probable pattern.
    """
    needed = (scored.shares[scored.first] < SURE) & (scored.unknown_share < STRANGE)
    asked = list[tuple[Job, int, Integers, slice]]()
    ends = np.cumsum([job.size for job, _ in scored.asked])
    for place in np.unique(np.searchsorted(ends, np.flatnonzero(needed), side="right")).tolist():
        first = scored.asked[place][0]
        rows = slice(int(ends[place]) - first.size, int(ends[place]))
        own, job = needed[rows], copy(first)
        job.values, job.trajectory = put_back(first, means[rows], pulled=True), False
        job.kept = False
        numbers = scored.pages[rows]
        asked += [(job, number, np.flatnonzero(own & (numbers == number)), rows) for number in np.unique(numbers[own])]
    return asked


def put_back(job: Job, values: Floats, *, pulled: bool = False) -> Floats:
    """Put back the known values of a query that holds them, or with `pulled` also of one that pulls them."""
    if job.known is None or job.values is None or (job.pull and not pulled):
        return values
    return np.where(job.known, job.values, values)


def settle(scored: Scored, answers: Floats) -> None:
    """Make the answers (rows, d) those of the queries, with what the posterior says beside."""
    known, start = scored.known, 0
    for job, recalled in scored.asked:
        rows = slice(start, start := start + job.size)
        recalled.values, recalled.probability = put_back(job, answers[rows]), known[rows]
        if len(job.memory.pages) > 1:
            before = 0 if recalled.pages is None else recalled.pages
            pages = np.where(known[rows] < KNOWN, before, scored.pages[rows])
            recalled.pages = pages if pages.any() else None
        if recalled.iterates is not None and recalled.energies is not None:
            recalled.iterates = np.concatenate([recalled.iterates, recalled.values[None]])
            recalled.energies = np.concatenate([recalled.energies, recalled.energies[-1:]])
