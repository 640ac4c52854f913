"""Scores of kept patterns for some cues, and what follows from them: probabilities, ranks and shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attractor_server.energy.posterior import STORED_ODDS
from attractor_server.engine import compute
from attractor_server.engine.operations.read_cues import Asked
from attractor_server.memories.outcomes import Floats, Integers
from attractor_server.scheduling.jobs import Job

NEGLIGIBLE = 14.0
"""Log-odds by which a pattern is behind that does not count any more"""


@dataclass(frozen=True, eq=False)
class Ranked:
    """The most probable patterns for each of n cues, the first of them first, (n, k)."""

    page: Integers
    """Number of the page in the memory; −1 where there are no more"""
    at: Integers
    """Which of the page's patterns"""
    probability: Floats
    """That the cue is of it"""


@dataclass(eq=False)
class Scored:
    """Scores of the patterns kept for some queries: of each row of their cues, of each of its pages, one by one."""

    asked: Sequence[Asked]
    scores: Floats
    """(patterns of all pairs,)"""
    none: Floats
    """(rows,): of "none of them\""""
    pairs: compute.Pairs
    """Of rows and views"""
    number: Integers
    """(pairs,): of the page in its memory"""
    row: Integers
    """(pairs,), in order"""
    counts: Integers
    """(pairs,): patterns of each"""
    cosines: Floats | None = None
    """(patterns of all pairs,) with the cues, where all are scored"""

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
        sums: Floats = np.add.reduceat(np.exp(self.scores - most[self.rows]), self.starts[:-1])
        total: Floats = np.add(most, np.log(sums), dtype=np.float32)
        return total

    @cached_property
    def shares(self) -> Floats:
        """Probabilities q of the patterns, where one of them is meant."""
        shares: Floats = np.exp(self.scores - self.total[self.rows])
        return shares

    @property
    def known(self) -> Floats:
        """Probability that a cue is of a kept pattern, (rows,)."""
        return sigmoid(self.total - self.none)

    @property
    def unknown_share(self) -> Floats:
        """p₀: the part of the reading in an answer, (rows,)."""
        return sigmoid(self.none - np.float32(np.log(STORED_ODDS)) - self.total)

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
        for job, _ in self.asked:
            rows = range(start, start := start + job.size)
            if job.matches:
                ranked[job] = self._rank(rows, job.matches)
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


def sigmoid(x: Floats) -> Floats:
    """Return 1/(1 + e^−x)."""
    with np.errstate(over="ignore"):  # exp may be infinite: then it is 0
        found: Floats = (1 / (1 + np.exp(-x))).astype(np.float32)
    return found
