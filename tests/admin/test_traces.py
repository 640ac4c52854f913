"""Traces: one call followed through SDK, forwarding, batch and commit, by the SDK of OpenTelemetry."""

from collections.abc import Sequence
from dataclasses import replace

import anyio.to_thread
import numpy as np
import pytest
from grpc import aio
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from tests.support import raw
from tests.support.admin_port import ask
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import THERE, serving

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.shard.spec import ShardSpec

ONE = np.full((1, 4, 4), 0.5, np.float32)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What the process exports, whose provider records what an application traces, and nothing else."""
    made = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(made))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return made


def application() -> trace.Tracer:
    """An application that traces all that it does."""
    return TracerProvider(resource=Resource.get_empty()).get_tracer("application")


def chain(spans: Sequence[ReadableSpan], last: ReadableSpan) -> list[str]:
    """The names of a span and those above it, the outermost first."""
    by_id = {span.context.span_id: span for span in spans if span.context}
    names: list[str] = []
    one: ReadableSpan | None = last
    while one is not None:
        names.append(one.name)
        one = by_id.get(one.parent.span_id) if one.parent else None
    return names[::-1]


async def test_a_call_is_followed_from_the_client_to_the_commit(
    on_disk: ShardSpec, exporter: InMemorySpanExporter, random: np.random.Generator
) -> None:
    async with (
        serving(replace(on_disk, admin_port=0), 2) as (here, there),
        attractor.connect(here.info.address, timeout_s=20, direct=False) as client,
    ):
        with application().start_as_current_span("handle a message") as span:
            memory = await client.create_memory(THERE, model="tiny")
            await memory.store(random.random((2, 4, 4), dtype=np.float32))
            await memory.query(ONE)
        accept = "application/openmetrics-text; version=1.0.0"
        _, metrics = await anyio.to_thread.run_sync(lambda: ask(there.admin_address, "/metrics", Accept=accept))
    spans = exporter.get_finished_spans()
    assert {one.context.trace_id for one in spans if one.context} == {span.get_span_context().trace_id}
    found = sorted(chain(spans, one) for one in spans)
    assert ["attractor.create", "forward"] in found
    assert ["attractor.create", "request"] in found
    for call, parts in (("attractor.store", ("write", "commit")), ("attractor.query", ("read",))):
        assert [call, "forward"] in found
        for part in parts:
            assert [call, "request", "batch", part] in found
    assert all(one.end_time is not None for one in spans)
    assert f'trace_id="{span.get_span_context().trace_id:032x}"' in metrics


async def test_a_request_that_fails_says_so_in_its_span(spec: ShardSpec, exporter: InMemorySpanExporter) -> None:
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        with application().start_as_current_span("work"), pytest.raises(attractor.MemoryNotFound):
            await client.memory("absent").info()
    spans = {one.name: one for one in exporter.get_finished_spans()}
    assert (spans["request"].attributes or {})["error.type"] == "MEMORY_NOT_FOUND"
    assert (spans["attractor.get"].attributes or {})["error.type"] == "MemoryNotFound"


async def test_what_nobody_traces_leaves_no_spans(spec: ShardSpec, exporter: InMemorySpanExporter) -> None:
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        await (await client.create_memory("a", model="tiny")).store(ONE)
    assert exporter.get_finished_spans() == ()


async def test_contexts_of_a_wrong_length_are_refused(spec: ShardSpec) -> None:
    async with serving(spec) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        async with raw_session(channel) as session:
            await session.open("a", 1)
            asked = columns([1], [1], tensor(ONE))
            asked.trace_parents = bytes(24)
            answer = await session.ask(pb.SessionRequest(recognize=pb.RecognizeFrame(columns=asked)))
            (status,) = raw.failures(answer).values()
            assert raw.violation(status) == ("recognize.columns.trace_parents", "saw 24 bytes; expected none, or 25")
