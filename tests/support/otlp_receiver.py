"""A receiver of traces in the test's own process."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.threaded_app import ThreadedApp


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it came; `parent_id` is empty for a root."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, object]


class OtlpReceiver(ThreadedApp):
    """Takes traces as OTLP over HTTP and keeps them."""

    def __init__(self) -> None:
        super().__init__(self._app)
        self.spans: list[ReceivedSpan] = []
        self.bodies: list[bytes] = []

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of one trace so far."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        return app

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        message = ExportTraceServiceRequest.FromString(body)
        for sent in message.resource_spans:
            resource = {each.key: each.value.string_value for each in sent.resource.attributes}
            for scope in sent.scope_spans:
                for span in scope.spans:
                    attributes = {each.key: _value(each.value) for each in span.attributes}
                    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                    self.spans.append(ReceivedSpan(resource["service.name"], span.name, *ids, attributes))
        return web.Response(body=b"", content_type="application/x-protobuf")


def _value(value: object) -> object:
    kind = value.WhichOneof("value")  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
    found = getattr(value, str(kind))
    return [each.string_value for each in found.values] if kind == "array_value" else found
