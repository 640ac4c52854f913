"""Scores of the patterns that memories keep, for cues that the network has read: see `energy.posterior`.

A cue is compared with all patterns of its memory, whatever page was read. Those of pages with frames are compared value
by value first; directions, which differ from frame to frame, are looked at in the pages that can still matter by then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from attractor_server.energy.posterior import Posterior
from attractor_server.engine import compute
from attractor_server.engine.batch import ModelState, Stops, concatenate
from attractor_server.engine.operations.image_cases import add_cases
from attractor_server.engine.operations.kept_views import enter_frames, find_views
from attractor_server.engine.operations.read_cues import Asked, ReadCues, combine, normalize
from attractor_server.engine.operations.scores import NEGLIGIBLE, Scored
from attractor_server.engine.pages.kept_views import KeptView
from attractor_server.errors import ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Booleans, Floats, Integers, Recalled
from attractor_server.memories.page import Page
from attractor_server.scheduling.jobs import Job

FRAMES = 64
"""Pages with frames in whose directions one cue is seen, at most"""

PATTERNS = 1 << 14
"""Patterns that cues are compared with between two stops, about"""


def score_kept(
    state: ModelState,
    answered: Sequence[tuple[Job, Recalled]],
    posterior: Posterior | None = None,
    entered: Mapping[Job, Tensor] | None = None,
) -> Stops[tuple[Sequence[Scored], dict[Job, ServerError]]]:
    """Score the patterns that the memories of these queries keep; queries of memories that keep none are left out.

    By the model's posterior, or another one. With `entered`, single cues in the frames of all pages as far as these are
    at hand, also those patterns have a finite score that cannot win, and the cosines with the cues stand beside.
    """
    posterior = posterior or state.model.posterior
    assert posterior is not None
    views, failed = yield from find_views(state, dict.fromkeys(job.memory for job, _ in answered))
    failures = {job: failed[job.memory] for job, _ in answered if job.memory in failed} if failed else {}
    scored = list[Scored]()
    for framed in (False, True):
        memories = dict.fromkeys(job.memory for job, _ in answered if job.memory.settings.framed is framed)
        kept = KeptPages.of([memory for memory in memories if memory not in failed], views)
        if asked := [one for one in answered if one[0].memory in kept.place]:
            scored.append((yield from _score(state, posterior, asked, kept, framed=framed, entered=entered)))
    return scored, failures


@dataclass(frozen=True, eq=False)
class KeptPages:
    """Pages of some memories that keep their patterns, memory after memory."""

    views: Sequence[KeptView]
    numbers: Integers
    """Of the pages in their memories"""
    place: Mapping[MemoryRecord, int]
    """Of each memory that has such pages"""
    pages: Integers
    """(memories,): how many each has"""
    patterns: Integers
    """(memories,): in these"""

    @classmethod
    def of(cls, memories: Sequence[MemoryRecord], views: Mapping[Page, KeptView]) -> "KeptPages":
        """List the pages of the memories of which there are views."""
        found = list[KeptView]()
        numbers, pages, patterns = list[int](), list[int](), list[int]()
        place: dict[MemoryRecord, int] = {}
        for memory in memories:
            own = [(number, views[page]) for number, page in enumerate(memory.pages) if page in views]
            if own:
                place[memory] = len(place)
                found += [view for _, view in own]
                numbers += [number for number, _ in own]
                pages.append(len(own))
                patterns.append(sum([view.count for _, view in own]))
        return cls(found, np.array(numbers, np.int64), place, np.array(pages, np.int64), np.array(patterns, np.int64))

    def pair(self, memory: Integers) -> tuple[Integers, Integers]:
        """Return the views and rows of all pairs of rows, which ask these memories (rows,), with pages."""
        first, pages = (np.cumsum(self.pages) - self.pages)[memory], self.pages[memory]
        row = np.repeat(np.arange(len(memory)), pages)
        within = np.arange(len(row)) - np.repeat(np.cumsum(pages) - pages, pages)
        return np.repeat(first, pages) + within, row


def _score(  # noqa: PLR0913
    state: ModelState,
    posterior: Posterior,
    asked: Sequence[Asked],
    kept: KeptPages,
    *,
    framed: bool,
    entered: Mapping[Job, Tensor] | None,
) -> Stops[Scored]:
    places = np.array([kept.place[job.memory] for job, _ in asked], np.int64)
    memory = np.repeat(places, [job.size for job, _ in asked])
    view, row = kept.pair(memory)
    pairs = compute.pair(kept.views, view, row)
    cues = ReadCues.of(state, asked)
    weights = posterior.weights.float().cpu().numpy()
    by = np.ascontiguousarray(weights[2:])
    parts = list[Floats]()
    for start, end in _cut(pairs.counts):
        some = pairs if end - start == len(row) else compute.pair(kept.views, view[start:end], row[start:end])
        if by.any():
            parts.append(some.compare(cues.u, cues.given, cues.read_u, by))
            yield
        else:
            parts.append(np.zeros(int(some.counts.sum()), np.float32))
    none = cues.score_none(posterior, kept.patterns[memory])
    scored = Scored(asked, concatenate(parts), none, pairs, kept.numbers[view], row, pairs.counts)
    in_frames = framed and state.model.has_metric and kept.pages.max() > 1
    if entered is not None:
        yield from _point_whole(state, scored, cues, kept.views, weights[:2], entered if in_frames else None)
    elif in_frames:
        yield from _point_framed(state, scored, cues, kept.views, weights[:2])
    else:
        pairs.point(combine(cues.directions, cues.read_directions, weights[:2]), scored.scores)
    if posterior.cases is not None and state.model.areas:
        add_cases(scored, cues, state.model.areas[0], posterior.cases.tolist())
    return scored


def _cut(counts: Integers) -> Sequence[tuple[int, int]]:
    """Cut pairs of so many patterns into parts of about `PATTERNS`."""
    parts = (np.cumsum(counts) - 1) // PATTERNS
    bounds = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(counts)]
    return list(pairwise(bounds))


def _choose_pairs(scored: Scored, rows: int, weights: Floats) -> Booleans:
    """Choose the pairs of rows and views, (pairs,), whose scores agreements of directions can still make the best.

    A cosine adds as much as its weight, or takes that away.
    """
    ends = np.cumsum(scored.counts)
    best = np.maximum.reduceat(scored.scores, ends - scored.counts)
    leads = np.maximum.reduceat(best, np.searchsorted(scored.row, np.arange(rows)))
    chosen: Booleans = best >= leads[scored.row] - 2 * float(weights.sum()) - NEGLIGIBLE
    order = np.lexsort((-best, scored.row))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    chosen &= place - np.searchsorted(scored.row, scored.row) < FRAMES
    return chosen


def _point_framed(
    state: ModelState, scored: Scored, cues: ReadCues, views: Sequence[KeptView], weights: Floats
) -> Stops[None]:
    """Add the agreements of directions, in the frames of pages, to scores; −∞ where they can change nothing."""
    chosen = _choose_pairs(scored, len(cues.u), weights)
    pairs = np.flatnonzero(chosen)
    cue, reading = yield from _enter_pages(state, scored, pairs, (cues.prepared, cues.read))
    some = np.repeat(chosen, scored.counts)
    found = np.ascontiguousarray(scored.scores[some])
    chosen_views = scored.pairs.view[pairs]
    compute.pair(views, chosen_views, np.arange(len(pairs))).point(combine(cue, reading, weights), found)
    scored.scores[:] = -np.inf
    scored.scores[some] = found


def _point_whole(  # noqa: PLR0913
    state: ModelState,
    scored: Scored,
    cues: ReadCues,
    views: Sequence[KeptView],
    weights: Floats,
    entered: Mapping[Job, Tensor] | None,
) -> Stops[None]:
    """Add the agreements of directions to all scores in place, and keep the cosines with the cues.

    The cues are in the frames of pages where `entered` has them so; None: all pages are alike.
    """
    pairs, ways = scored.pairs, [cues.directions, cues.read_directions]
    if entered is not None:
        every = np.arange(len(scored.row))
        pairs = compute.pair(views, scored.pairs.view, every)
        sides = [cues.prepared, cues.read]
        at_hand = _find_entered(scored, entered)
        some = sides[len(at_hand) : 2 if weights[1] > 0 else 1]  # readings are left out where they have no weight
        ways = [*at_hand, *((yield from _enter_pages(state, scored, every, some)) if some else ())]
    scored.cosines = np.zeros_like(scored.scores)
    pairs.point(np.ascontiguousarray(ways[0], np.float32), scored.cosines)
    scored.scores += weights[0] * scored.cosines
    if weights[1] > 0:
        pairs.point(np.ascontiguousarray(weights[1] * ways[1], np.float32), scored.scores)


def _find_entered(scored: Scored, entered: Mapping[Job, Tensor]) -> Sequence[Floats]:
    """Return single cues as unit vectors in the frames of the pages of all pairs, if all are at hand, else nothing."""
    jobs = [job for job, _ in scored.asked]
    if any(job not in entered or job.known is not None for job in jobs):  # what is not known has no part in scores
        return []
    parts = [entered[job][:, 0].float().cpu().numpy()[scored.number[scored.row == row]] for row, job in enumerate(jobs)]
    return [normalize(concatenate(parts))]


def _enter_pages(
    state: ModelState, scored: Scored, pairs: Integers, sides: Sequence[Tensor]
) -> Stops[Sequence[Floats]]:
    """Return prepared patterns (rows, values) of some sides as unit vectors in the frames of these pairs' pages."""
    pages = [job.memory.pages for job, _ in scored.asked for _ in range(job.size)]
    by_page: dict[Page, list[int]] = {}
    for at, pair in enumerate(pairs.tolist()):
        by_page.setdefault(pages[scored.row[pair]][scored.number[pair]], []).append(at)
    ways = [np.empty((len(pairs), state.model.entries), np.float32) for _ in sides]
    told = list(by_page)
    for start in range(0, len(told), FRAMES):
        part = told[start : start + FRAMES]
        ats = [by_page[page] for page in part]
        some = np.concatenate(ats)
        rows = scored.row[pairs[some]]
        for way, u in zip(ways, sides, strict=True):
            way[some] = normalize(enter_frames(state, part, [len(one) for one in ats], u[rows]))
        yield
    return ways
