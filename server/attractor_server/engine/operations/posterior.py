"""Recall by the posterior: the network's answers, and the patterns that their memories keep, weighed by one another.

See `energy.posterior` for what is computed.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attractor_server.energy.posterior import SURE
from attractor_server.engine.batch import ModelState, concatenate
from attractor_server.engine.operations.scores import Scored
from attractor_server.memories.outcomes import Booleans, Floats, Integers
from attractor_server.scheduling.jobs import Job

LEAST = 1e-7
"""Shares below it add nothing to a mean"""

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


def mean_of(state: ModelState, scored: Scored) -> Mean:
    """Return the posterior's mean of the kept patterns alone."""
    encoded = _mix(state, scored, scored.shares)
    return Mean(_decode(state, encoded), encoded)


def weigh(state: ModelState, scored: Scored, mean: Mean, again: Floats) -> Floats:
    """Return the answers (rows, d), where the network has read `again` from the mean, or that was not asked for."""
    encode = state.model.encoding.encode
    reading = encode(state.to_device(concatenate([recalled.values for _, recalled in scored.asked])))
    kept = mean.encoded
    if (rows := _shared(scored)).any():
        found = _weigh_copies(state, scored, rows, encode(state.to_device(again)))
        kept = torch.where(state.to_device(rows)[:, None], found, kept)
    return _decode(state, kept.lerp(reading, state.to_device(scored.unknown_share)[:, None]))


def _shared(scored: Scored) -> Booleans:
    """Return for which rows the network reads from a mean that several patterns share."""
    return (scored.shares[scored.first] < SURE) & (scored.unknown_share < STRANGE)


def _weigh_copies(state: ModelState, scored: Scored, rows: Booleans, second: Tensor) -> Tensor:
    """Return m′ and r′ (rows, encoded values) weighed by one another, for these rows alone."""
    transform, tiny = state.model.transform, np.finfo(np.float32).tiny
    of, starts = scored.rows, scored.starts[:-1]
    points = (second * transform.scale + transform.shift).float().cpu().numpy()
    units = (1 / transform.scale).float().cpu().numpy()
    near = np.where(rows[of], np.exp((scored.scores - scored.scores[scored.first][of]) / 2), 0).astype(np.float32)
    squares = scored.pairs.measure(near, points, units, least=LEAST)
    nearest = np.maximum(squares[scored.first], tiny)
    with np.errstate(over="ignore"):  # where r′ is a pattern itself all others are infinitely further away
        copies = near * np.exp(-np.maximum(squares / nearest[of], 1))
    copies /= np.maximum(np.add.reduceat(copies, starts), tiny)[of]
    mean = _mix(state, scored, copies)
    total = np.where(rows, np.maximum(np.add.reduceat(copies * squares, starts), tiny), 1)
    lean = np.clip(1 - _squares(mean - second) / total, 0, 1).astype(np.float32)
    return mean.lerp(second, state.to_device(lean)[:, None])


def _mix(state: ModelState, scored: Scored, shares: Floats) -> Tensor:
    """Return the mean of patterns by their shares, (rows, encoded values)."""
    means = np.zeros((len(scored.none), state.model.encoding.size), np.float32)
    scored.pairs.mix(shares, means, least=LEAST)
    return (state.to_device(means) - state.model.transform.shift) / state.model.transform.scale


def _decode(state: ModelState, encoded: Tensor) -> Floats:
    values = state.model.encoding.decode(encoded)
    for field, span in state.model.layout.spans:
        if (limits := field.traits.recall_limits) is not None:
            values[..., span] = values[..., span].clamp(*limits)
    return values.float().cpu().numpy()


def _squares(gaps: Tensor) -> Floats:
    found: Floats = gaps.square().sum(-1).float().cpu().numpy()
    return found


def reread(scored: Scored, means: Floats) -> Sequence[tuple[Job, int, Integers, slice]]:
    """Return jobs that read from the means (rows, d) which several patterns share: with a page's number, which of the
    job's own rows, and where these all are.

    The page is that of the most probable pattern.
    """
    needed = _shared(scored)
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
