"""Counts of the busiest namespaces: there may be any number of them, and of label values there must not."""

from collections import Counter
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

OTHERS: Final = "(others)"
"""Label of all namespaces that have none of their own"""

DECAY: Final = 0.5
"""Weight of what was counted before the last scrape"""

_SEEN_LIMIT: Final = 16_384


class NamespaceCounter(Collector):
    """Counts by namespace, of which the busiest have series of their own. No series ever falls. Thread-safe."""

    def __init__(self, name: str, documentation: str, *, limit: int = 50) -> None:
        self._name, self._documentation, self._limit = name, documentation, limit
        self._named: dict[str, float] = {}
        """Counts since each got a series of its own"""
        self._others = 0.0
        self._recent: Counter[str] = Counter()
        self._lock = Lock()

    def add(self, counts: Mapping[str, float]) -> None:
        """Count so much more of each namespace."""
        with self._lock:
            for namespace, count in counts.items():
                self._recent[namespace] += count  # type: ignore[assignment] # floats count as well
                if namespace in self._named or len(self._named) < self._limit:
                    self._named[namespace] = self._named.get(namespace, 0.0) + count
                else:
                    self._others += count
            if len(self._recent) > _SEEN_LIMIT:
                self._recent = Counter(dict(self._recent.most_common(_SEEN_LIMIT // 2)))

    def collect(self) -> Iterator[Metric]:
        """Yield the series, and choose who has one from now on: a series that goes and comes again begins at 0."""
        family = CounterMetricFamily(self._name, self._documentation, labels=("tenant",))
        with self._lock:
            for namespace, count in self._named.items():
                family.add_metric((namespace,), count)
            family.add_metric((OTHERS,), self._others)
            busiest = [namespace for namespace, _ in self._recent.most_common(self._limit)]
            self._named = {namespace: self._named.get(namespace, 0.0) for namespace in busiest}
            self._recent = Counter({name: count * DECAY for name, count in self._recent.items() if count > 1})
        yield family

    def describe(self) -> Iterator[Metric]:
        """Yield the family without series."""
        yield CounterMetricFamily(self._name, self._documentation, labels=("tenant",))
