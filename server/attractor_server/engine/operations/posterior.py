"""Recall by the posterior: the network's answers, and the patterns that their memories keep, weighed by one another.

See `energy.posterior` for what is computed. A cue is compared with all patterns of its memory, whatever page was read.
Those of pages with frames are compared value by value first; directions, which differ from frame to frame, are looked
at in the pages that can still matter by then.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from attractor_server.energy.posterior import STORED_ODDS, Posterior
from attractor_server.engine import compute
from attractor_server.engine.batch import ModelState, Stops, concatenate
from attractor_server.engine.operations.kept_views import enter_frames, find_views
from attractor_server.engine.pages.kept_views import KeptView
from attractor_server.errors import ServerError
from attractor_server.memories.outcomes import Booleans, Floats, Integers, Recalled
from attractor_server.memories.page import Page
from attractor_server.scheduling.jobs import Job

LEAST = 1e-7
"""Shares below it add nothing to a mean"""

SURE = 0.999
"""Share of a pattern from which on no other one has a part in the answer that is worth reading for"""

FRAMES = 8
"""Pages with frames in whose directions one cue is seen, at most"""

NEGLIGIBLE = 14.0
"""Log-odds by which a pattern is behind that does not count any more"""

KNOWN = 0.5
"""Probability from which on a cue counts as one of a kept pattern"""

PATTERNS = 1 << 14
"""Patterns that cues are compared with between two stops, about"""


@dataclass(frozen=True, eq=False)
class Asked:
    """An answered query, and the pages of its memory that keep their patterns."""

    job: Job
    recalled: Recalled
    numbers: Sequence[int]
    """Of the pages in the memory"""
    views: Sequence[KeptView]


@dataclass(frozen=True, eq=False)
class Ranked:
    """The most probable patterns for each of n cues, the first of them first, (n, k)."""

    page: Integers
    """Number of the page in the memory; −1 where there are no more"""
    at: Integers
    """Which of the page's patterns"""
    probability: Floats
    """That the cue is of it"""


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of the patterns kept for some queries: of each row of their cues, of each of its pages, one by one."""

    asked: Sequence[Asked]
    scores: Floats
    """(patterns of all pairs,)"""
    none: Floats
    """(rows,): of "none of them\""""
    view: Integers
    """(pairs,)"""
    number: Integers
    """(pairs,): of the page in its memory"""
    row: Integers
    """(pairs,), in order"""
    counts: Integers
    """(pairs,): patterns of each"""

    @cached_property
    def starts(self) -> Integers:
        """Where the patterns of each row begin, (rows + 1,)."""
        of_rows = np.bincount(self.row, weights=self.counts, minlength=len(self.none)).astype(np.int64)
        return np.concatenate([[0], np.cumsum(of_rows)])

    @cached_property
    def rows(self) -> Integers:
        """The row of each pattern."""
        return np.repeat(self.row, self.counts)

    @cached_property
    def total(self) -> Floats:
        """The logarithm of the sum of the exponentials of each row's scores, (rows,)."""
        most = np.maximum.reduceat(self.scores, self.starts[:-1])
        sums = np.add.reduceat(np.exp(self.scores - most[self.rows]), self.starts[:-1])
        return most + np.log(sums)

    @cached_property
    def shares(self) -> Floats:
        """Probabilities q of the patterns, where one of them is meant."""
        return np.exp(self.scores - self.total[self.rows])

    @property
    def known(self) -> Floats:
        """Probability that a cue is of a kept pattern, (rows,)."""
        return _sigmoid(self.total - self.none)

    @property
    def unknown_share(self) -> Floats:
        """p₀: the part of the reading in an answer, (rows,)."""
        return _sigmoid(self.none - np.float32(np.log(STORED_ODDS)) - self.total)

    @cached_property
    def first(self) -> Integers:
        """Place of each row's most probable pattern among all, (rows,)."""
        most = np.flatnonzero(self.scores == np.maximum.reduceat(self.scores, self.starts[:-1])[self.rows])
        return most[np.searchsorted(self.rows[most], np.arange(len(self.none)))]

    @cached_property
    def pages(self) -> Integers:
        """Number of the page that has each row's most probable pattern, (rows,)."""
        return self.number[self.pairs_of(self.first)]

    def pairs_of(self, places: Integers) -> Integers:
        """Return the pairs of patterns, by their places among all."""
        return np.searchsorted(np.cumsum(self.counts), places, side="right")

    def list_ranks(self) -> "dict[Job, Ranked]":
        """Rank the patterns for the queries that ask for matches."""
        ranked, start = {}, 0
        for one in self.asked:
            rows = range(start, start := start + one.job.size)
            if one.job.matches:
                ranked[one.job] = self._rank(rows, one.job.matches)
        return ranked

    def _rank(self, rows: range, each: int) -> "Ranked":
        page, at = np.full((2, len(rows), each), -1, np.int64)
        probability = np.zeros((len(rows), each), np.float32)
        ends = np.cumsum(self.counts)
        for place, row in enumerate(rows):
            own = self.scores[self.starts[row] : self.starts[row + 1]]
            first = np.argsort(-own, kind="stable")[:each]
            first = first[np.isfinite(own[first])]
            pairs = self.pairs_of(self.starts[row] + first)
            page[place, : len(first)] = self.number[pairs]
            at[place, : len(first)] = self.starts[row] + first - (ends - self.counts)[pairs]
            probability[place, : len(first)] = np.exp(own[first] - np.logaddexp(self.total[row], self.none[row]))
        return Ranked(page, at, probability)


def score_kept(
    state: ModelState, answered: Sequence[tuple[Job, Recalled]]
) -> Stops[tuple[Sequence[Scored], dict[Job, ServerError]]]:
    """Score the patterns that the memories of these queries keep; queries of memories that keep none are left out."""
    posterior = state.model.posterior
    assert posterior is not None
    views, failed = yield from find_views(state, dict.fromkeys(job.memory for job, _ in answered))
    failures = {job: failed[job.memory] for job, _ in answered if job.memory in failed}
    alike: dict[bool, list[Asked]] = {}
    for job, recalled in answered:
        if job in failures:
            continue
        numbers = [number for number, page in enumerate(job.memory.pages) if page in views]
        if numbers:
            own = [views[job.memory.pages[number]] for number in numbers]
            alike.setdefault(job.memory.settings.framed, []).append(Asked(job, recalled, numbers, own))
    scored = list[Scored]()
    for framed, asked in alike.items():
        scored.append((yield from _score(state, posterior, asked, framed=framed)))
    return scored, failures


def _score(state: ModelState, posterior: Posterior, asked: Sequence[Asked], *, framed: bool) -> Stops[Scored]:
    sizes = [one.job.size for one in asked]
    pages = [len(one.numbers) for one in asked]
    # Pairs of each cue with each page, the cues in their order
    first = np.cumsum([0, *pages])[:-1]
    per_row = np.repeat(pages, sizes)
    row = np.repeat(np.arange(sum(sizes)), per_row)
    within = np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    view = np.repeat(np.repeat(first, sizes), per_row) + within
    views = [one for some in asked for one in some.views]
    numbers = np.concatenate([one.numbers for one in asked]).astype(np.int64)
    counts = np.array([len(one.u) for one in views], np.int64)[view]
    cues = _Cues.of(state, asked)
    weights = posterior.weights.float().cpu().numpy()
    parts = list[Floats]()
    for start, end in _cut(counts):
        parts.append(
            compute.pair(views, view[start:end], row[start:end]).compare(
                cues.u, cues.given, cues.read_u, np.ascontiguousarray(weights[2:])
            )
        )
        yield
    scored = Scored(asked, concatenate(parts), cues.score_none(posterior, asked), view, numbers[view], row, counts)
    if framed and max(pages) > 1:
        yield from _point_framed(state, scored, cues, views, weights[:2])
    else:
        compute.pair(views, view, row).point(_combine(cues.x, cues.read_x, weights[:2]), scored.scores)
    return scored


def _cut(counts: Integers) -> Sequence[tuple[int, int]]:
    """Cut pairs of so many patterns into parts of about `PATTERNS`."""
    parts = (np.cumsum(counts) - 1) // PATTERNS
    bounds = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(counts)]
    return list(zip(bounds, bounds[1:], strict=False))


def _point_framed(
    state: ModelState, scored: Scored, cues: "_Cues", views: Sequence[KeptView], weights: Floats
) -> Stops[None]:
    """Add the agreements of directions, in each page's own frame, to scores in place; −∞ where they can change nothing.

    A cosine adds as much as its weight, or takes that away.
    """
    ends = np.cumsum(scored.counts)
    best = np.maximum.reduceat(scored.scores, ends - scored.counts)
    leads = np.maximum.reduceat(best, np.searchsorted(scored.row, np.arange(len(cues.u))))
    chosen = best >= leads[scored.row] - 2 * float(weights.sum()) - NEGLIGIBLE
    order = np.lexsort((-best, scored.row))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    chosen &= place - np.searchsorted(scored.row, scored.row) < FRAMES
    pairs = np.flatnonzero(chosen)
    # Cues and readings in the frames of those pages
    pages = [one.job.memory.pages for one in scored.asked for _ in range(one.job.size)]
    by_page: dict[Page, list[int]] = {}
    for at, pair in enumerate(pairs.tolist()):
        by_page.setdefault(pages[scored.row[pair]][scored.number[pair]], []).append(at)
    ways = np.empty((len(pairs), cues.x.shape[1]), np.float32)
    told = [page for page in by_page]
    for start in range(0, len(told), FRAMES):
        part = told[start : start + FRAMES]
        ats = [by_page[page] for page in part]
        rows = scored.row[pairs[np.concatenate(ats)]]
        both = [enter_frames(state, part, [len(one) for one in ats], u[rows]) for u in (cues.prepared, cues.read)]
        ways[np.concatenate(ats)] = _combine(both[0], both[1], weights)
        yield
    some = np.repeat(chosen, scored.counts)
    found = np.ascontiguousarray(scored.scores[some])
    compute.pair(views, scored.view[pairs], np.arange(len(pairs))).point(ways, found)
    scored.scores[:] = -np.inf
    scored.scores[some] = found


@dataclass(frozen=True, eq=False)
class _Cues:
    """Cues and readings of some queries, row after row."""

    prepared: Tensor
    """(rows, values) as `whiten` takes them; NaN where nothing is given"""
    read: Tensor
    """(rows, values), of the readings"""
    x: Floats
    """(rows, entries): in network units, in the frames of the pages that were read"""
    read_x: Floats

    @classmethod
    def of(cls, state: ModelState, asked: Sequence[Asked]) -> "_Cues":
        """Gather the cues of these queries: what is known of them where that is told, else all that is given."""
        model = state.model
        told = concatenate([_find_told(one.job) for one in asked])
        values = concatenate([one.recalled.values for one in asked])
        directions = [one.recalled.directions for one in asked if one.recalled.directions is not None]
        assert len(directions) == len(asked)
        return cls(
            model.prepare(state.to_device(told)),
            model.prepare(state.to_device(values)),
            concatenate([one.cue for one in directions]),
            concatenate([one.reading for one in directions]),
        )

    @cached_property
    def given(self) -> Floats:
        """1 where a cue is given, else 0, (rows, values)."""
        return (~self.prepared.isnan()).float().cpu().numpy()

    @cached_property
    def u(self) -> Floats:
        """The cues, 0 where they are not given, (rows, values)."""
        return np.ascontiguousarray(self.prepared.nan_to_num(nan=0.0).float().cpu().numpy())

    @cached_property
    def read_u(self) -> Floats:
        """The readings, (rows, values)."""
        return np.ascontiguousarray(self.read.float().cpu().numpy())

    def score_none(self, posterior: Posterior, asked: Sequence[Asked]) -> Floats:
        """Return the scores of "none of them", (rows,)."""
        count = self.given.sum(1)
        held = [np.full(one.job.size, max(1, sum(len(view.u) for view in one.views)), np.float32) for one in asked]
        gaps = np.abs(self.u - self.read_u) * self.given
        features = (
            np.ones_like(count),
            concatenate([one.recalled.delta_energy for one in asked]),
            np.log(concatenate(held)),
            count / self.given.shape[1],
            (_normalize(self.x) * _normalize(self.read_x)).sum(1),
            -np.square(gaps).sum(1) / np.maximum(count, 1),
            -gaps.sum(1) / np.maximum(count, 1),
        )
        return np.stack(features, 1).astype(np.float32) @ posterior.none.float().cpu().numpy()


def _find_told(job: Job) -> Floats:
    """Return cues (n, d) with NaN where nothing is known; those of which nothing is told as they are."""
    assert job.values is not None
    if job.known is None:
        return job.values
    return np.where(job.known | ~job.known.any(1, keepdims=True), job.values, np.float32(np.nan))


def _combine(cues: Floats, readings: Floats, weights: Floats) -> Floats:
    """Return the ways along which a pattern's direction adds both cosines by their weights."""
    return np.ascontiguousarray(weights[0] * _normalize(cues) + weights[1] * _normalize(readings), np.float32)


def _normalize(x: Floats) -> Floats:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp may be infinite: then it is 0
        found: Floats = (1 / (1 + np.exp(-x))).astype(np.float32)
    return found


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
    """Return the answers (rows, d), of which `again` are the network's readings from the mean; see `energy.posterior`."""
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
