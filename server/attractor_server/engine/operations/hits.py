"""Hits of a search: candidates, their filter, what words add, and what the best of them carry."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter

import numpy as np

from attractor_server.engine.batch import Stops
from attractor_server.engine.pages.pattern_cache import PagePatterns, PatternCache
from attractor_server.memories.items import LOOSE_PAGES, ItemPlace, is_expired
from attractor_server.memories.outcomes import Booleans, Floats, Integers
from attractor_server.memories.records import Item
from attractor_server.memories.search import Found, Hit, SearchQuery
from attractor_server.memories.store import MemoryStore
from attractor_server.scheduling.jobs import Job

LOOKED = 256
"""Items that are looked at between two stops"""

LOOSE = 64
"""Items without a pattern that are fetched at a time"""

PROBABLE = 1e-3
"""Probability from which on a pattern adds to that of its id, however it is ranked"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """Kept patterns of a memory, (n,) each, page by page, beside a cue."""

    job: Job
    page: Integers
    """Number of the page in the memory's list"""
    at: Integers
    """Which of the page's patterns"""
    scores: Floats
    """By the posterior; without one, the cosines"""
    cosines: Floats
    none: float | None
    """Score of "none of them"; None without a posterior"""
    log_kept: float
    """Weight in that of the logarithm of n"""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Candidates in their order, and what the posterior says of them."""

    order: Integers
    """Places of those that are taken, the best first"""
    scores: Floats
    """(n,), by which they are ordered"""
    shares: Floats | None
    """(n,) probability of each; None without a posterior"""
    log_odds: float | None
    """That the cue is of any of those that are taken"""


class HitLister:
    """Lists the hits of one search. What it reads in the store is not changed meanwhile."""

    def __init__(self, store: MemoryStore, kept: PatternCache, candidates: Candidates) -> None:
        assert candidates.job.search is not None
        self._store = store
        self._kept = kept
        self._candidates = candidates
        self._asked: SearchQuery = candidates.job.search
        self._memory = candidates.job.memory
        self._pages: dict[int, PagePatterns | None] = {}
        self._now_s = time.time()

    def list_hits(self) -> Stops[Found]:
        """Return the hits, with stops between pages.

        Raises:
            ServerError: the store cannot be read, or is damaged.
        """
        taken = yield from self._filter()
        grades: Mapping[ItemPlace, float] = {}
        if self._asked.words:
            grades = self._store.grade_texts(self._memory.id, self._asked.words)
            yield
        words = yield from self._align(grades)
        ranking = rank(self._candidates, taken, self._asked, words if grades else None)
        hits = yield from self._list_kept(ranking)
        total = len(ranking.order)
        if loose := [place for place in grades if place.page >= LOOSE_PAGES]:
            mean, spread = _measure(words[taken])
            scores = {place: (grades[place] - mean) / spread for place in loose}
            more, looked = yield from self._list_loose(scores)
            hits, total = _merge(hits, more, self._asked.size), total + looked
        return Found(hits=hits, log_odds=ranking.log_odds, total=total)

    def _filter(self) -> Stops[Booleans]:
        """Return which of the candidates the filter matches, (n,)."""
        taken = np.ones(len(self._candidates.page), np.bool_)
        if not self._asked.filter.conditions:
            return taken
        for number in np.unique(self._candidates.page).tolist():
            own = self._candidates.page == number
            patterns = self._get(number)
            taken[own] = False if patterns is None else [self._takes(item) for item in patterns.items]
            yield
        return taken

    def _takes(self, item: Item) -> bool:
        return not is_expired(item, self._now_s) and self._asked.filter.matches(item)

    def _align(self, grades: Mapping[ItemPlace, float]) -> Stops[Floats]:
        """Return the grades of the candidates' texts, (n,)."""
        words = np.zeros(len(self._candidates.page), np.float32)
        numbers = {page.number: number for number, page in enumerate(self._memory.pages)} if grades else {}
        for place, grade in sorted(grades.items()):
            if (number := numbers.get(place.page)) is None:
                continue
            if number not in self._pages:
                yield
            first, end = np.searchsorted(self._candidates.page, [number, number + 1])
            patterns = self._get(number)
            at = None if patterns is None else patterns.starts.get(place.version)
            if at is not None and first + at + place.row < end:
                words[first + at + place.row] = grade
        return words

    def _list_kept(self, ranking: Ranking) -> Stops[list[Hit]]:
        """List the best candidates, each id once."""
        found: dict[str | int, Hit] = {}
        seen = set[int]()
        for count, place in enumerate(ranking.order.tolist(), 1):
            if count % LOOKED == 0 or int(self._candidates.page[place]) not in self._pages:
                yield
            if (hit := self._make_hit(place, ranking)) is None:
                continue
            name = hit.item.id or place
            if name not in found and len(found) == self._asked.size:
                break
            seen.add(place)
            found[name] = _add_part(found[name], hit.probability) if name in found else hit
        if ranking.shares is not None:
            for place in np.flatnonzero(ranking.shares > PROBABLE).tolist():
                part = None if place in seen else self._make_hit(place, ranking)
                if part is not None and part.item.id in found:
                    found[part.item.id] = _add_part(found[part.item.id], part.probability)
        return list(found.values())

    def _make_hit(self, place: int, ranking: Ranking) -> Hit | None:
        """Return the hit of a candidate; None where it is not to be told of."""
        patterns, at = self._get(int(self._candidates.page[place])), int(self._candidates.at[place])
        if patterns is None or is_expired(patterns.items[at], self._now_s):
            return None
        return Hit(
            item=patterns.items[at],
            page=int(self._candidates.page[place]),
            score=float(ranking.scores[place]),
            values=patterns.values[at],
            probability=None if ranking.shares is None else float(ranking.shares[place]),
            distance=min(max(1 - float(self._candidates.cosines[place]), 0.0), 2.0),
        )

    def _list_loose(self, scores: Mapping[ItemPlace, float]) -> Stops[tuple[list[Hit], int]]:
        """List the best items without a pattern, and count those that are taken."""
        best = iter(sorted(scores, key=lambda place: -scores[place]))
        hits = list[Hit]()
        looked = 0
        while some := list(islice(best, LOOSE)):
            if len(hits) >= self._asked.size and not self._asked.filter.conditions:
                looked += len(some)
                continue
            for one in self._store.find_at(self._memory.id, some):
                if self._takes(one.item):
                    looked += 1
                    hits.append(Hit(item=one.item, page=0, score=scores[one.place], values=one.values))
            yield
        return hits, looked

    def _get(self, number: int) -> PagePatterns | None:
        if number not in self._pages:
            self._pages[number] = self._kept.of(self._memory, self._memory.pages[number])
        return self._pages[number]


def rank(candidates: Candidates, taken: Booleans, asked: SearchQuery, words: Floats | None) -> Ranking:
    """Rank the candidates that are taken, with what words add to their scores."""
    scores, shares, log_odds = candidates.scores, None, None
    places = np.flatnonzero(taken)
    if candidates.none is not None:
        none, log_odds, total = candidates.none, -math.inf, -math.inf
        if len(places):
            none += candidates.log_kept * math.log(len(places) / len(taken))
            most = float(scores[places].max())
            total = most + math.log(np.exp(scores[places] - most).sum())
            log_odds = total - none
        shares = np.where(taken, np.exp(scores - np.logaddexp(total, none)), 0).astype(np.float32)
        scores = scores - np.float32(none)
    if asked.by == "cue":
        scores = candidates.cosines
    if words is not None:
        scores = _standardize(scores, taken) + _standardize(words, taken)
    return Ranking(places[np.argsort(-scores[places], kind="stable")], scores, shares, log_odds)


def _standardize(scores: Floats, taken: Booleans) -> Floats:
    """Return scores in standard deviations from the mean of those that are taken."""
    mean, spread = _measure(scores[taken])
    found: Floats = ((scores - mean) / spread).astype(np.float32)
    return found


def _measure(scores: Floats) -> tuple[float, float]:
    """Return the mean and the standard deviation; 1 in the place of none."""
    if not len(scores):
        return 0.0, 1.0
    return float(scores.mean()), float(scores.std()) or 1.0


def _add_part(hit: Hit, probability: float | None) -> Hit:
    """Return the hit with the probability of another pattern of its id."""
    if probability is None or hit.probability is None:
        return hit
    return replace(hit, probability=hit.probability + probability)


def _merge(hits: list[Hit], others: list[Hit], size: int) -> list[Hit]:
    """Return the best of both, each id once."""
    best: dict[str | int, Hit] = {}
    for number, hit in enumerate(sorted([*hits, *others], key=attrgetter("score"), reverse=True)):
        best.setdefault(hit.item.id or number, hit)
    return list(best.values())[:size]
