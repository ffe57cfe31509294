"""Spans by OpenTelemetry's SDK, sent as OTLP over HTTP; the one module that imports its packages."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from callboard_kit.tracing import Attributes, Headers, Kind

TRACES_PATH = "/v1/traces"
CLOSE_TIMEOUT_S = 3.0
_KINDS: dict[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}


class OtlpTracer:
    """Makes the spans of one process; see `tracing.Tracer`.

    A thread sends them in batches. Those that cannot be sent in time are dropped, so that a collector that is away
    holds nothing up. The SDK's own environment variables, such as `OTEL_TRACES_SAMPLER`, apply.
    """

    def __init__(self, service: str, endpoint: str) -> None:
        resource = Resource.create({"service.name": f"callboard-{service}", "service.namespace": "callboard"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}{TRACES_PATH}")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("callboard")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, kind: Kind, headers: Headers | None, attributes: Attributes) -> Generator[None]:
        """A span around what is done inside the context."""
        parent = None if headers is None else self._propagator.extract(headers)
        # The text of an exception may quote what a client wrote.
        with self._tracer.start_as_current_span(
            name,
            parent,
            _KINDS[kind],
            dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as current:
            try:
                yield
            except BaseException as error:
                current.set_attribute("error.type", type(error).__name__)
                current.set_status(StatusCode.ERROR)
                raise

    def annotate(self, attributes: Attributes, name: str | None) -> None:
        """Adds to the current span."""
        current = trace.get_current_span()
        current.set_attributes(dict(attributes))
        if name is not None:
            current.update_name(name)

    def ids(self) -> dict[str, str] | None:
        """The ids of the current span."""
        context = trace.get_current_span().get_span_context()
        if not context.trace_flags.sampled:
            return None
        return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}

    def headers(self) -> dict[str, str]:
        """What carries the current span to another process."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers)
        return headers

    def close(self) -> None:
        """Sends what is left, for as long as the process can wait."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)
