"""Gauges of a shard: read from its parts when somebody asks, so that they cost nothing until then."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from attractor_server.admin.metrics import Metrics
from attractor_server.engine.batch import ModelState
from attractor_server.engine.engine import Engine
from attractor_server.shard.certificates import Certificates
from attractor_server.shard.shard import Shard

TENANTS_LIMIT = 50
"""Namespaces, the fullest, whose use of their quotas is told"""


@dataclass(frozen=True, kw_only=True)
class ShardGauges(Collector):
    """The state of a shard that runs. What it reads are numbers and lengths, which any thread may."""

    shard: Shard
    engine: Engine
    metrics: Metrics
    device: str
    warm_up_s: Callable[[], Mapping[str, float]]
    certificates: Certificates | None = None
    """None where the shard speaks no TLS"""

    def collect(self) -> Iterator[Metric]:
        """Yield all gauges as they are now."""
        yield from self._queue()
        yield from self._banks()
        yield from self._sessions()
        yield from self._ownership()
        yield from self._quotas()
        yield from self._certificate()
        yield from self._facts()

    def _queue(self) -> Iterator[Metric]:
        batcher = self.shard.batcher
        yield _gauge("queue_patterns", "Patterns that wait for the engine", batcher.waiting_weight)
        yield _gauge("queue_limit_patterns", "Patterns that may wait", batcher.waiting_limit)
        yield _gauge("queue_namespaces", "Namespaces whose patterns wait", batcher.waiting_namespaces)
        yield _gauge("request_bytes", "Memory that calls hold", self.shard.budget.used_bytes)
        yield _gauge("request_limit_bytes", "Memory that calls may hold", self.shard.budget.limit_bytes)

    def _banks(self) -> Iterator[Metric]:
        states = list(self.engine.states)
        gauges: dict[str, tuple[str, Callable[[ModelState], float]]] = {
            "bank_pages": ("Pages in the bank", lambda state: state.bank.pages),
            "bank_capacity_pages": ("Pages that have room in the bank", lambda state: state.bank.capacity),
            "bank_bytes": ("Memory of the bank, full or not", lambda state: state.bank.size_bytes),
            "page_file_bytes": (
                "Size of the file of pages without room in the bank",
                lambda state: state.spill.size_bytes,
            ),
        }
        for name, (documentation, read) in gauges.items():
            family = GaugeMetricFamily(f"attractor_{name}", documentation, labels=("model",))
            for model, value in _sum_by_model(states, read).items():
                family.add_metric((model,), value)
            yield family
        counters: dict[str, tuple[str, Callable[[ModelState], float]]] = {
            "bank_loads": ("Pages that came into the bank from below", lambda state: state.bank.loads),
            "bank_evictions": ("Pages that left the bank for others", lambda state: state.bank.evictions),
        }
        for name, (documentation, read) in counters.items():
            counted = CounterMetricFamily(f"attractor_{name}", documentation, labels=("model",))
            for model, value in _sum_by_model(states, read).items():
                counted.add_metric((model,), value)
            yield counted

    def _sessions(self) -> Iterator[Metric]:
        sessions = self.metrics.sessions
        yield _gauge("sessions", "Sessions that are open", len(sessions))
        yield _gauge("handles", "Memories that they have bound", sum(len(one.bound) for one in sessions))
        yield _gauge("upstreams", "Their sessions with other shards", sum(len(one.upstreams) for one in sessions))

    def _ownership(self) -> Iterator[Metric]:
        ownership = self.shard.ownership
        if ownership is not None:
            yield _gauge("ownership_groups", "Groups of slots that are this shard's, of 64", len(ownership.held))
            age_s = ownership.lease_age_s
            if age_s < float("inf"):
                yield _gauge("lease_age_seconds", "Time since the lease was renewed", age_s)
        yield _gauge("topology_epoch", "Epoch of the topology that the shard follows", self.shard.followed)
        yield _gauge("memories", "Memories at hand: known here since the start", self.shard.memories.count)
        yield _gauge("draining", "1 while clients are sent away", int(self.shard.draining.is_set()))

    def _quotas(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "attractor_tenant_used_ratio", "Part of its quota that a namespace keeps", labels=("tenant", "quota")
        )
        used = {} if self.shard.accounts is None else self.shard.accounts.measure_used()
        for (namespace, quota), ratio in sorted(used.items(), key=lambda one: -one[1])[:TENANTS_LIMIT]:
            family.add_metric((namespace, quota), ratio)
        yield family

    def _certificate(self) -> Iterator[Metric]:
        """Yield the times of the certificate that new connections see; without TLS families without a sample."""
        expires = GaugeMetricFamily("attractor_tls_certificate_expires_seconds", "Time until the certificate expires")
        renewal = GaugeMetricFamily(
            "attractor_tls_certificate_renewal_seconds", "Time until the certificate should have been renewed"
        )
        if self.certificates is not None:
            contents = self.certificates.current
            expires.add_metric((), contents.expires_s - time.time())
            renewal.add_metric((), contents.overdue_s - time.time())
        yield expires
        yield renewal

    def _facts(self) -> Iterator[Metric]:
        warm = GaugeMetricFamily("attractor_warm_up_seconds", "Time to warm the model", labels=("model",))
        for model, took_s in self.warm_up_s().items():
            warm.add_metric((model,), took_s)
        yield warm
        models = GaugeMetricFamily("attractor_models_info", "Models that are served", labels=("model", "digest"))
        for name, card in self.shard.models.items():
            models.add_metric((name, card.digest), 1)
        yield models
        build = GaugeMetricFamily(
            "attractor_build_info", "Versions of the server", labels=("version", "torch", "device", "shard")
        )
        build.add_metric((version("attractor"), torch.__version__, self.device, str(self.shard.number)), 1)
        yield build
        if self.device == "cuda":
            yield _gauge("device_memory_bytes", "Memory of the device in PyTorch's hands", torch.cuda.memory_reserved())


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"attractor_{name}", documentation, value=value)


def _sum_by_model(states: Iterable[ModelState], read: Callable[[ModelState], float]) -> Mapping[str, float]:
    """Return a sum for each name: a former model may have that of a newer one."""
    sums: Counter[str] = Counter()
    for state in states:
        sums[state.model.name] += read(state)  # type: ignore[assignment] # floats count as well
    return sums
