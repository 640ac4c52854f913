"""A histogram that takes many values at a time. prometheus_client's takes one, at half a microsecond each."""

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

_FEW: Final = 8
"""So many values are sorted in one by one; of more numpy is faster"""


def make_bounds(least: float, most: float, factor: float = 2.0) -> tuple[float, ...]:
    """Return bounds from `least` to `most`, each the one before it times a factor."""
    count = 1 + round(np.log(most / least) / np.log(factor))
    return tuple(float(f"{least * factor**power:.4g}") for power in range(count))


class _Series:
    """Counts of the values of one set of labels, by bucket; the last is beyond all bounds."""

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0
        self.exemplars: list[Exemplar | None] = [None] * buckets


class BulkHistogram(Collector):
    """A histogram of a registry, by labels. Thread-safe."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._bounds = tuple(bounds)
        self._array = np.array(bounds)
        self._series: dict[tuple[str, ...], _Series] = {}
        self._lock = Lock()

    def observe(
        self, labels: tuple[str, ...], values: "Sequence[float] | NDArray[np.floating]", *, trace: str = ""
    ) -> None:
        """Count the values, which are numbers; the largest gets the id of a trace as its exemplar, if there is one."""
        with self._lock:
            if (series := self._series.get(labels)) is None:
                series = self._series[labels] = _Series(len(self._bounds) + 1)
            if len(values) <= _FEW:
                for value in values:
                    series.counts[bisect_left(self._bounds, value)] += 1
                    series.total += float(value)
            else:
                array = np.asarray(values, np.float64)
                places = np.searchsorted(self._array, array)
                for place, count in enumerate(np.bincount(places).tolist()):
                    series.counts[place] += count
                series.total += float(array.sum())
            if trace and len(values):
                value = float(max(values))
                series.exemplars[bisect_left(self._bounds, value)] = Exemplar({"trace_id": trace}, value, time.time())

    def collect(self) -> Iterator[Metric]:
        """Yield the family of all series."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        with self._lock:
            for labels, series in self._series.items():
                below, buckets = 0, []
                edges = [*map(str, self._bounds), "+Inf"]
                for edge, count, exemplar in zip(edges, series.counts, series.exemplars, strict=True):
                    below += count
                    buckets.append((edge, below, exemplar) if exemplar else (edge, below))
                family.add_metric(labels, buckets, series.total)
        yield family

    def describe(self) -> Iterator[Metric]:
        """Yield the family without series."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
