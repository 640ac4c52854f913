"""Recall by the posterior: the network's answers, and the patterns that their memories keep, weighed by one another.

See `energy.posterior` for what is computed.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attractor_server.engine import compute
from attractor_server.engine.batch import ModelState, concatenate
from attractor_server.engine.operations.scoring import Scored
from attractor_server.memories.outcomes import Floats, Integers
from attractor_server.scheduling.jobs import Job

LEAST = 1e-7
"""Shares below it add nothing to a mean"""

SURE = 0.999
"""Share of a pattern from which on no other one has a part in the answer that is worth reading for"""

KNOWN = 0.5
"""Probability from which on a cue counts as one of a kept pattern"""


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean m of kept patterns for each row, and how they differ."""

    values: Floats
    """(rows, d) in user units: as decoded, what the network reads from"""
    encoded: Tensor
    """(rows, encoded values)"""
    spread: Floats
    """V, (rows,)"""


def mean_of(state: ModelState, scored: Scored) -> Mean:
    """Return the posterior's mean of the kept patterns alone."""
    model, views = state.model, [one for some in scored.asked for one in some.views]
    pairs = compute.pair(views, scored.view, scored.row)
    shares = np.ascontiguousarray(scored.shares, np.float32)
    means = np.zeros((len(scored.none), views[0].u.shape[1]), np.float32)
    pairs.mix(shares, means, least=LEAST)
    scale, shift = model.transform.scale, model.transform.shift
    spread = np.zeros(len(means), np.float32)
    pairs.spread(shares, means, (1 / scale).float().cpu().numpy(), spread, least=LEAST)
    encoded = (state.to_device(means) - shift) / scale
    return Mean(_decode(state, encoded), encoded, spread)


def _decode(state: ModelState, encoded: Tensor) -> Floats:
    values = state.model.encoding.decode(encoded)
    for field, span in state.model.layout.spans:
        if (limits := field.traits.recall_limits) is not None:
            values[..., span] = values[..., span].clamp(*limits)
    return values.float().cpu().numpy()


def weigh(state: ModelState, scored: Scored, mean: Mean, again: Floats) -> Floats:
    """Return the answers (rows, d), where the network has read `again` from the mean."""
    encode = state.model.encoding.encode
    reading = encode(state.to_device(concatenate([one.recalled.values for one in scored.asked])))
    second = encode(state.to_device(again))
    moved = (mean.encoded - second).square().sum(-1)
    spread = state.to_device(mean.spread)
    lean = spread / (spread + moved).clamp(min=torch.finfo(torch.float32).tiny)
    none = state.to_device(scored.unknown_share)[:, None]
    found = (1 - none) * mean.encoded.lerp(second, lean[:, None]) + none * reading
    return _decode(state, found)


def reread(scored: Scored, means: Floats) -> Sequence[tuple[Job, int, Integers, slice]]:
    """Return jobs that read from the means (rows, d) which several patterns share: with a page's number, which of the
    job's own rows, and where these all are.

    The page is that of the most probable pattern.
    """
    needed = (scored.shares[scored.first] < SURE) & (scored.unknown_share < SURE)
    asked = list[tuple[Job, int, Integers, slice]]()
    start = 0
    for one in scored.asked:
        rows = slice(start, start := start + one.job.size)
        if not (own := needed[rows]).any():
            continue
        job = copy(one.job)
        job.values, job.trajectory = put_back(one.job, means[rows], pulled=True), False
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
    for one in scored.asked:
        rows, recalled = slice(start, start := start + one.job.size), one.recalled
        recalled.values, recalled.probability = put_back(one.job, answers[rows]), known[rows]
        recalled.directions = None
        if len(one.job.memory.pages) > 1:
            before = 0 if recalled.pages is None else recalled.pages
            pages = np.where(known[rows] < KNOWN, before, scored.pages[rows])
            recalled.pages = pages if pages.any() else None
        if recalled.iterates is not None and recalled.energies is not None:
            recalled.iterates = np.concatenate([recalled.iterates, recalled.values[None]])
            recalled.energies = np.concatenate([recalled.energies, recalled.energies[-1:]])
