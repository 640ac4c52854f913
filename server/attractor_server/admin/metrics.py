"""Metrics of a shard, as its parts report them. No label holds the name of a memory or the id of a client."""

import logging
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

import numpy as np
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry, Counter, ProcessCollector

from attractor_server.admin.histogram import BulkHistogram, make_bounds
from attractor_server.admin.namespaces import NamespaceCounter
from attractor_server.admin.tracing import RequestSpan, Tracer
from attractor_server.errors import ServerError
from attractor_server.memories.names import namespace_of
from attractor_server.memories.outcomes import Outcome, Recalled
from attractor_server.recorder import OK, Recorder, RequestTrace, SessionHandles

if TYPE_CHECKING:
    from attractor_server.scheduling.jobs import Job

logger = logging.getLogger(__name__)

SECONDS: Final = make_bounds(0.001, 16.384)
"""1 ms to 16 s"""
SHORT_SECONDS: Final = make_bounds(0.000_25, 4.096)
COUNTS: Final = make_bounds(1, 4096)
ENERGIES: Final = (0.0, *make_bounds(0.01, 655.36, 4))
"""The first bucket holds recalls that did not come down at all"""
PROBABILITIES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
DISTANCES: Final = make_bounds(0.0625, 128)


RECALLS_LIMIT: Final = 16
"""Queries of a batch whose recalls are looked at, evenly over it: a sample says as much, and looks cost time"""


class Metrics(Recorder):
    """A recorder that counts, in a registry of its own."""

    def __init__(self, *, backend: str, tracer: Tracer | None = None) -> None:
        """`backend` is the kind of the store: sqlite, postgresql or none. Without a tracer nothing is traced."""
        self._tracer = tracer
        self.registry = CollectorRegistry()
        self._backend = backend
        self._sessions: dict[SessionHandles, Span | None] = {}
        histogram, counter = self._histogram, self._counter
        self._requests = counter(
            "requests", "Requests answered, by reason: OK, or the error's", "operation model reason"
        )
        self._request_s = histogram(
            "request_duration_seconds",
            "Time from a request's arrival until its answer was sent; of those that did not fail",
            "operation model path",
            SECONDS,
        )
        self._queue_s = histogram(
            "queue_duration_seconds", "Time that requests waited for the engine", "operation", SECONDS
        )
        self._batch_s = histogram(
            "batch_duration_seconds", "Time of a batch in the engine", "operation model", SHORT_SECONDS
        )
        self._batch_patterns = histogram("batch_patterns", "Patterns in a batch", "operation model", COUNTS)
        self._batch_memories = histogram("batch_memories", "Memories in a batch", "operation model", COUNTS)
        self._busy = counter("engine_busy_seconds", "Time in which the engine computed")
        self._patterns = counter("patterns", "Patterns computed", "operation model")
        self._restores = counter("restores", "Memories that came back from the store", "model")
        self._restore_s = histogram(
            "restore_duration_seconds", "Time to bring the memories of a batch back", "model", SECONDS
        )
        self._commit_s = histogram(
            "commit_duration_seconds", "Time of a commit of stores or erases", "backend", SECONDS
        )
        self._commit_memories = histogram("commit_memories", "Memories changed by a commit", "backend", COUNTS)
        self._store_failures = counter("store_failures", "Transactions that the store did not take", "backend")
        self._damaged = counter("images_damaged", "Images that were damaged or gone when they were read", "backend")
        self._artifact_s = histogram(
            "artifact_duration_seconds", "Time of calls to the artifact store", "call", SECONDS
        )
        self._forwarded = counter("forwarded", "Requests passed on to the shard that owns their memory", "kind")
        self._moves = counter("moves", "Groups of slots claimed or released")
        self._expired = counter("memories_expired", "Memories deleted since their time was over")
        self._energy_drop = histogram(
            "recall_energy_drop", "Energy of a cue less that of what was recalled", "model", ENERGIES
        )
        self._probability = histogram(
            "recall_probability",
            "Probability that a cue is of a kept pattern, where these take part",
            "model",
            PROBABILITIES,
        )
        self._distance = histogram(
            "recall_distance",
            "Distance from what was recalled to the nearest kept pattern, where asked for",
            "model",
            DISTANCES,
        )
        self._tenant_patterns = self._namespaces("tenant_patterns", "Patterns computed for the busiest namespaces")
        self._tenant_refused = self._namespaces("tenant_refused", "Requests refused since the waiting room was full")
        self._tenant_limited = self._namespaces(
            "tenant_limited", "Requests that a quota refused or held back, of the busiest namespaces"
        )
        for failing in (self._store_failures, self._damaged):  # 0, not absent: alerts look at their increase
            failing.labels(backend)
        for kind in ("call", "session"):
            self._forwarded.labels(kind)
        ProcessCollector(registry=self.registry)

    @property
    def sessions(self) -> Sequence[SessionHandles]:
        """Sessions that are open."""
        return list(self._sessions)

    def record_answers(self, operation: str, model: str, path: str, reason: str, took_s: Sequence[float]) -> None:
        """Count requests, and the time of those that did not fail."""
        self._requests.labels(operation, model, reason).inc(len(took_s))
        if reason == OK:
            self._request_s.observe((operation, model, path), took_s)

    def record_refusal(self, namespace: str) -> None:
        """Count a request that found no room."""
        self._tenant_refused.add({namespace: 1})

    def record_limit(self, namespace: str) -> None:
        """Count a request that a quota refused or held back."""
        self._tenant_limited.add({namespace: 1})

    def record_batch(
        self, jobs: "Sequence[Job]", outcomes: "Sequence[Outcome | ServerError]", started_s: float, ended_s: float
    ) -> None:
        """Count a batch: once for all its jobs, as far as can be. One that goes on is counted by its parts."""
        try:
            self._count_batch(jobs, outcomes, started_s, ended_s)
        except Exception:  # which is no fault of the requests
            logger.exception("a batch of %d jobs was not counted", len(jobs))

    def _count_batch(
        self, jobs: "Sequence[Job]", outcomes: "Sequence[Outcome | ServerError]", started_s: float, ended_s: float
    ) -> None:
        first = jobs[0]
        labels = operation, model = first.operation.value, first.memory.model
        patterns = sum([job.size for job in jobs])
        self._busy.inc(ended_s - started_s)
        self._patterns.labels(operation, model).inc(patterns)
        self._batch_s.observe(labels, (ended_s - started_s,), trace=self._find_trace(jobs))
        self._batch_patterns.observe(labels, (patterns,))
        self._batch_memories.observe(labels, (len({job.memory for job in jobs}),))
        if first.parts <= 1:
            self._queue_s.observe((operation,), [started_s - job.queued_s for job in jobs])
        self._tenant_patterns.add(_count_by_namespace(jobs, patterns))
        self._record_recalls(model, [one for one in outcomes if type(one) is Recalled])

    def record_restores(self, model: str, memories: int, took_s: float) -> None:
        """Count memories that came back."""
        self._restores.labels(model).inc(memories)
        self._restore_s.observe((model,), (took_s,))

    def record_commit(self, memories: int, took_s: float) -> None:
        """Count a commit."""
        self._commit_s.observe((self._backend,), (took_s,))
        self._commit_memories.observe((self._backend,), (memories,))

    def record_store_failure(self) -> None:
        """Count a transaction that failed."""
        self._store_failures.labels(self._backend).inc()

    def record_damaged_image(self) -> None:
        """Count an image that is damaged or gone."""
        self._damaged.labels(self._backend).inc()

    def record_artifact(self, call: str, took_s: float) -> None:
        """Count a call to the artifact store."""
        self._artifact_s.observe((call,), (took_s,))

    def record_forwarded(self, kind: str, requests: int = 1) -> None:
        """Count what was passed on."""
        self._forwarded.labels(kind).inc(requests)

    def record_expired(self) -> None:
        """Count a memory whose time was over."""
        self._expired.inc()

    def record_moves(self, groups: int) -> None:
        """Count groups that came or went."""
        self._moves.inc(groups)

    def open_session(self, handles: SessionHandles) -> None:
        """Count a session as open."""
        self._sessions[handles] = None if self._tracer is None else self._tracer.open_session()

    def close_session(self, handles: SessionHandles) -> None:
        """Count it no more."""
        if (span := self._sessions.pop(handles, None)) is not None:
            span.end()

    def trace_request(self, parent: bytes, operation: str, model: str) -> RequestTrace | None:
        """Return the span of a traced request."""
        return None if self._tracer is None else self._tracer.open_request(parent, operation, model)

    def trace_batch(self, jobs: "Sequence[Job]") -> AbstractContextManager[object]:
        """Return the span of a batch with traced requests."""
        return super().trace_batch(jobs) if self._tracer is None else self._tracer.open_batch(jobs)

    def trace_forward(self, parents: bytes) -> AbstractContextManager[object]:
        """Return the span of traced requests that are passed on."""
        return super().trace_forward(parents) if self._tracer is None else self._tracer.open_forward(parents)

    def span(self, name: str) -> AbstractContextManager[object]:
        """Return the span of a part of a traced batch."""
        return super().span(name) if self._tracer is None else self._tracer.open_part(name)

    def _record_recalls(self, model: str, recalled: Sequence[Recalled]) -> None:
        if not recalled:
            return
        some = recalled[:: -(-len(recalled) // RECALLS_LIMIT)]
        drop = np.concatenate([one.energy_before for one in some]) - np.concatenate([one.energy_after for one in some])
        self._energy_drop.observe((model,), drop[np.isfinite(drop)])
        if told := [one.probability for one in some if one.probability is not None]:
            self._probability.observe((model,), np.concatenate(told))
        if matched := [one.matches.distances[:: one.matches.each] for one in some if one.matches is not None]:
            distances = np.concatenate(matched)
            self._distance.observe((model,), distances[np.isfinite(distances)])

    def _find_trace(self, jobs: "Sequence[Job]") -> str:
        """Return the id of the trace of one of the jobs; empty where none is traced."""
        if self._tracer is None:
            return ""
        return next((job.trace.trace_id for job in jobs if isinstance(job.trace, RequestSpan)), "")

    def _counter(self, name: str, documentation: str, labels: str = "") -> Counter:
        return Counter(f"attractor_{name}", documentation, labels.split(), registry=self.registry)

    def _histogram(self, name: str, documentation: str, labels: str, bounds: Iterable[float]) -> BulkHistogram:
        made = BulkHistogram(f"attractor_{name}", documentation, labels.split(), tuple(bounds))
        self.registry.register(made)
        return made

    def _namespaces(self, name: str, documentation: str) -> NamespaceCounter:
        made = NamespaceCounter(f"attractor_{name}", documentation)
        self.registry.register(made)
        return made


def _count_by_namespace(jobs: "Sequence[Job]", patterns: int) -> Tally[str]:
    if patterns == len(jobs):  # one each, for the most part: counted without a loop in Python
        return Tally(map(namespace_of, [job.memory.name for job in jobs]))
    counts: Tally[str] = Tally()
    for job in jobs:
        counts[namespace_of(job.memory.name)] += job.size
    return counts
