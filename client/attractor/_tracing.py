"""Traces of calls, where the application has set up OpenTelemetry."""

import re
from types import TracebackType
from typing import TYPE_CHECKING

from attractor_proto.traces import pack_trace

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class CallSpan:
    """A span of a call, which the server's are below; one that nobody records does nothing."""

    def __init__(self, span: "Span | None") -> None:
        self._span = span
        self.packed = b""
        """The context, as frames have it; empty where the server is not to record."""
        if span is not None and (context := span.get_span_context()).trace_flags.sampled:
            self.packed = pack_trace(context.trace_id, context.span_id, context.trace_flags)

    def __enter__(self) -> "CallSpan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """End the span, the first time; with the error that the call raised, if it did."""
        span, self._span = self._span, None
        if span is None:
            return
        if error is not None:
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__name__)
        span.end()


NO_SPAN = CallSpan(None)


class CallTracer:
    """Starts spans by the provider that the application had set when the client was opened, if it had."""

    def __init__(self) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - not before a client is opened

        provider = trace.get_tracer_provider()
        silent = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
        self._tracer = None if silent else provider.get_tracer("attractor")
        self._kind = trace.SpanKind.CLIENT

    def start(self, operation: str) -> CallSpan:
        """Start the span of a call, below the one that is current."""
        if self._tracer is None:  # a span of nobody's would cost as much as a tenth of a call
            return NO_SPAN
        return CallSpan(self._tracer.start_span(f"attractor.{operation}", kind=self._kind))

    def start_unary(self, request: object) -> CallSpan:
        """Start the span of a unary call, named for its request."""
        if self._tracer is None:
            return NO_SPAN
        name = type(request).__name__.removesuffix("Request")
        return self.start(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
