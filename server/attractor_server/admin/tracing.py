"""Traces by OpenTelemetry: spans of requests that their client traces, of the batches that compute them, and of parts.

The packages are the API's; the SDK is the extra `otel`, and the standard variables (OTEL_…) say where spans go.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from attractor_proto.traces import TRACE_BYTES, unpack_trace
from attractor_server.errors import ServerError
from attractor_server.logs import TRACE_ID
from attractor_server.memories.outcomes import OutcomeFuture, outcome_of

if TYPE_CHECKING:
    from attractor_server.scheduling.jobs import Job

logger = logging.getLogger(__name__)

LINKS_LIMIT: Final = 128
"""Requests that a batch names"""

SLOW_S: Final = 1.0
"""A traced request that takes longer is logged"""

REPORT_EVERY_S: Final = 1.0
"""Of those that come together one is"""

_SWITCHES: Final = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def find_tracer() -> "Tracer | None":
    """Return a tracer by the provider of this process, made now where the variables ask for one; None: no traces."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        if not _is_asked_for() or not _set_provider():
            return None
        provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.NoOpTracerProvider) else Tracer(provider.get_tracer("attractor_server"))


def _is_asked_for() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(os.environ.get(name) for name in _SWITCHES)


def _set_provider() -> bool:
    """Send spans by OTLP to where the variables say; return whether the packages for that are installed."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra's
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        logger.warning("OTEL_… asks for traces, and there are none: %s; pip install 'attractor-server[otel]'", error)
        return False
    os.environ.setdefault("OTEL_SERVICE_NAME", "attractor")
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


class RequestSpan:
    """The span of one request, until it is answered."""

    def __init__(self, span: Span, operation: str, report_slow: Callable[[str, str, float], None]) -> None:
        """`report_slow` takes the operation, the id of the trace and the seconds."""
        self.span = span
        self._operation = operation
        self._report_slow = report_slow
        self._started_s = time.perf_counter()

    @property
    def trace_id(self) -> str:
        """Id of its trace, as logs and exemplars have it."""
        return f"{self.span.get_span_context().trace_id:032x}"

    def end_with(self, answer: OutcomeFuture) -> None:
        """End the span, with the reason where the request failed."""
        outcome = outcome_of(answer)
        self.end(outcome.reason if isinstance(outcome, ServerError) else "")

    def end(self, reason: str = "") -> None:
        """End the span; `reason` says why the request failed, if it did."""
        if reason:
            self.span.set_status(Status(StatusCode.ERROR, reason))
            self.span.set_attribute("error.type", reason)
        self.span.end()
        if (took_s := time.perf_counter() - self._started_s) > SLOW_S:
            self._report_slow(self._operation, self.trace_id, took_s)


class Tracer:
    """Starts the spans of a shard. Those of a batch's parts are below the batch that the engine's thread is at."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._batch: Context | None = None
        self._reported_s = 0.0

    def open_request(self, parent: bytes, operation: str, model: str) -> RequestSpan | None:
        """Start the span of a request whose client traces it; None where it does not."""
        if (context := _read_parent(parent)) is None:
            return None
        facts = {"attractor.operation": operation, "attractor.model": model}
        span = self._tracer.start_span("request", context, SpanKind.SERVER, facts)
        return RequestSpan(span, operation, self._report_slow) if span.is_recording() else None

    def open_session(self) -> Span:
        """Start the span of a session, which belongs to no trace."""
        return self._tracer.start_span("session", Context(), SpanKind.SERVER)

    def open_forward(self, parents: bytes) -> AbstractContextManager[object]:
        """Return the span of requests that are passed on, below the first that is traced; none where none is."""
        for start in range(0, len(parents), TRACE_BYTES):
            if (context := _read_parent(parents[start : start + TRACE_BYTES])) is not None:
                return self._tracer.start_as_current_span("forward", context, SpanKind.CLIENT)
        return nullcontext()

    @contextmanager
    def open_batch(self, jobs: "Sequence[Job]") -> Iterator[None]:
        """Have a span below the first traced request, with links to the others; none where none is traced."""
        traced = [job.trace for job in jobs if isinstance(job.trace, RequestSpan)]
        if not traced:
            yield
            return
        links = [Link(one.span.get_span_context()) for one in traced[1 : LINKS_LIMIT + 1]]
        facts = {"attractor.jobs": len(jobs), "attractor.operation": jobs[0].operation.value}
        span = self._tracer.start_span(
            "batch", trace.set_span_in_context(traced[0].span), attributes=facts, links=links
        )
        self._batch = trace.set_span_in_context(span)
        token = TRACE_ID.set(traced[0].trace_id)
        try:
            yield
        finally:
            TRACE_ID.reset(token)
            self._batch = None
            span.end()

    def _report_slow(self, operation: str, trace_id: str, took_s: float) -> None:
        if (now_s := time.monotonic()) - self._reported_s > REPORT_EVERY_S:
            self._reported_s = now_s
            found = {"trace_id": trace_id}
            logger.warning("a %s took %.1f s, trace %s", operation, took_s, trace_id, extra=found)

    @contextmanager
    def open_part(self, name: str) -> Iterator[None]:
        """Have a span below the batch, if that is traced."""
        if self._batch is None:
            yield
            return
        span = self._tracer.start_span(name, self._batch)
        try:
            yield
        finally:
            span.end()


def _read_parent(packed: bytes) -> Context | None:
    """Return the context that a client sent, if it is sampled and whole."""
    if len(packed) != TRACE_BYTES:
        return None
    trace_id, span_id, flags = unpack_trace(packed)
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return (
        trace.set_span_in_context(NonRecordingSpan(context))
        if context.trace_flags.sampled and context.is_valid
        else None
    )
