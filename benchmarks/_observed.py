"""Queries a second of shards that are observed, each beside one that is not, in turns."""

import asyncio
import socket
import statistics
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
import anyio.to_thread
from _loads import run_closed_loop
from _served import connect_queries
from _shards import Shards
from _tenants import Vectors
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, SamplingResult, TraceIdRatioBased

from attractor_server.shard.spec import ShardSpec

SCRAPE_EVERY_S = 5.0

SAMPLED = {"with 1 % traced": 0.01, "with all traced": 1.0}


class _Nowhere(SpanExporter):
    """Takes spans and keeps none."""

    def export(self, spans: Sequence[object]) -> SpanExportResult:
        """Take them."""
        return SpanExportResult.SUCCESS


class _Part(Sampler):
    """Samples a part of traces, which may change."""

    def __init__(self) -> None:
        self.part: Sampler = TraceIdRatioBased(0.0)

    def should_sample(self, *arguments: object, **more: object) -> SamplingResult:
        """Return what the part's sampler says."""
        return self.part.should_sample(*arguments, **more)  # type: ignore[arg-type] # as they came

    def get_description(self) -> str:
        """Describe it."""
        return "a part"


def export_nowhere() -> None:
    """Set up traces in this process, as `OTEL_…` would, but for the way out."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
    trace.set_tracer_provider(provider)


async def compare_observed(
    spec: ShardSpec, cues: Vectors, *, callers: int, rounds: int, seconds: float
) -> tuple[float, Mapping[str, float]]:
    """Return queries a second of a shard that nobody observes, and by how each is observed the median ratio to it."""
    port = _find_port()
    sampler = _Part()
    with (
        Shards(spec, 1) as plain,
        Shards(replace(spec, admin_port=port), 1) as counted,
        Shards(spec, 1, setup=export_nowhere) as traced,
    ):
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            unobserved = await connect_queries(stack, plain.addresses[0], cues, spread=True)
            asked = {"with metrics": await connect_queries(stack, counted.addresses[0], cues, spread=True)}
            trace.set_tracer_provider(TracerProvider(sampler=ParentBased(sampler)))
            asked |= dict.fromkeys(SAMPLED, await connect_queries(stack, traced.addresses[0], cues, spread=True))
            tasks.start_soon(_scrape, port)
            rates: list[float] = []
            ratios: dict[str, list[float]] = {name: [] for name in asked}
            for at in range(rounds + 1):
                for name, query in asked.items():
                    sampler.part = TraceIdRatioBased(SAMPLED.get(name, 0.0))
                    pair = [unobserved, query]
                    found = [
                        await run_closed_loop(one, callers=callers, seconds=seconds)
                        for one in (pair if at % 2 else pair[::-1])
                    ]
                    before, now = found if at % 2 else found[::-1]
                    if at:  # the first round warms
                        rates.append(before)
                        ratios[name].append(now / before)
            tasks.cancel_scope.cancel()
    return statistics.median(rates), {name: statistics.median(found) for name, found in ratios.items()}


async def _scrape(port: int) -> None:
    while True:
        await anyio.to_thread.run_sync(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read())
        await asyncio.sleep(SCRAPE_EVERY_S)


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
