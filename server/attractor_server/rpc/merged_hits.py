"""Hits of several answers, ranked together."""

import heapq
import math
from operator import itemgetter

import numpy as np

from attractor_proto.v1 import memory_items_pb2 as pb


class MergedHits:
    """The best hits of several answers, as if they came of one memory with all that was looked at."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._hits: list[tuple[float, float, pb.Hit]] = []
        """Each with the logarithm of its likelihood, beside that of nothing, and its place"""
        self._log_odds = -math.inf
        self._graded = False
        self._total = 0
        self.memories = 0

    def add(self, answer: pb.SearchResponse) -> None:
        """Add an answer of one or several memories."""
        if not answer.memories:
            return
        self.memories += answer.memories
        self._total += answer.total
        log_weight = 0.0
        if answer.HasField("log_odds"):
            self._graded = True
            log_memories = math.log(answer.memories)
            self._log_odds = _add_logs(self._log_odds, answer.log_odds + log_memories)
            log_weight = log_memories + _add_logs(0.0, answer.log_odds)
        for hit in answer.hits:
            likelihood = math.log(hit.probability) + log_weight if hit.probability > 0 else -math.inf
            self._hits.append((likelihood, hit.score, hit))
        self._hits = heapq.nlargest(self._size, self._hits, key=itemgetter(1))

    def make_response(self) -> pb.SearchResponse:
        """Return the answer of all."""
        response = pb.SearchResponse(total=self._total, memories=self.memories)
        log_all = _add_logs(math.log(max(1, self.memories)), self._log_odds)
        if self._graded:
            response.log_odds = self._log_odds - math.log(self.memories)
            response.known = sigmoid(response.log_odds)
        for likelihood, _, hit in self._hits:
            if hit.HasField("probability"):
                hit.probability = math.exp(likelihood - log_all)
        response.hits.extend([hit for _, _, hit in self._hits])
        return response


def _add_logs(one: float, other: float) -> float:
    """Return log(e^x + e^y)."""
    return float(np.logaddexp(one, other))


def sigmoid(x: float) -> float:
    """Return 1/(1 + e^−x)."""
    return math.exp(-_add_logs(0.0, -x))
