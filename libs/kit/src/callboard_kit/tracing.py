"""Traces of requests through all processes; off unless `site.traces_endpoint` is set.

While traces are off nothing of OpenTelemetry is imported, and every function here returns at once. No attribute ever
holds what a client wrote.
"""

from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, TypeVar

from callboard_contracts.headers import TRACE_CONTEXT

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int | float | bool | Sequence[str]]
Headers = Mapping[str, str]

T = TypeVar("T")

_OFF = nullcontext()


class TracesUnavailable(Exception):  # noqa: N818 - a state of the installation
    """Traces are asked for and cannot be made; the message is one line for the operator."""


class Tracer(Protocol):
    """What makes and sends spans; see the functions below."""

    def span(
        self, name: str, kind: Kind, headers: Headers | None, attributes: Attributes
    ) -> AbstractContextManager[None]:
        """A span around what is done inside the context."""
        ...

    def annotate(self, attributes: Attributes, name: str | None) -> None:
        """Adds to the current span."""
        ...

    def ids(self) -> dict[str, str] | None:
        """The ids of the current span."""
        ...

    def headers(self) -> dict[str, str]:
        """What carries the current span to another process."""
        ...

    def close(self) -> None:
        """Sends what is left."""
        ...


_tracer: Tracer | None = None


def set_up(service: str, endpoint: str | None) -> None:
    """Sends the spans of this process to an OTLP/HTTP endpoint, or makes none without one.

    Raises:
        TracesUnavailable: the packages for it are not installed.
    """
    global _tracer
    if endpoint is None:
        _tracer = None
        return
    try:
        from callboard_kit.otlp import OtlpTracer
    except ImportError as error:
        raise TracesUnavailable(
            f"site.traces_endpoint: needs the package {error.name}; install the extra `traces` of the service"
        ) from None
    _tracer = OtlpTracer(service, endpoint)


def is_on() -> bool:
    """Whether spans are made, which is settled before a process takes anything."""
    return _tracer is not None


def close() -> None:
    """Sends the spans that have not been sent yet, within a few seconds, and makes no more."""
    global _tracer
    tracer, _tracer = _tracer, None
    if tracer is not None:
        tracer.close()


def span(
    name: str, kind: Kind = "internal", headers: Headers | None = None, attributes: Attributes | None = None
) -> AbstractContextManager[None]:
    """A span around what is done inside the context; `headers` carry its parent, which otherwise is the current span.

    An exception that leaves the context marks the span as failed by its type alone.
    """
    return _OFF if _tracer is None else _tracer.span(name, kind, headers, attributes or {})


def annotate(attributes: Attributes, name: str | None = None) -> None:
    """Adds attributes to the current span, and may rename it."""
    if _tracer is not None:
        _tracer.annotate(attributes, name)


def ids() -> dict[str, str] | None:
    """The `trace_id` and `span_id` of the current span if it is recorded, for a metric's exemplar or a log line."""
    return None if _tracer is None else _tracer.ids()


def carried(headers: Headers | None = None) -> dict[str, str] | None:
    """Headers, with what carries the current span to another process."""
    if _tracer is None:
        return None if headers is None else dict(headers)
    return {**(headers or {}), **_tracer.headers()} or None


def context_of(headers: Headers | None) -> dict[str, str]:
    """Those of a message's headers that carry a span, for a message that is passed on."""
    return {name: headers[name] for name in TRACE_CONTEXT if name in headers} if headers else {}


def traced(work: Awaitable[T], name: str, kind: Kind, headers: Headers | None = None) -> Awaitable[T]:
    """Some work as a span, whose parent came with the headers, or else is the current span."""
    return work if _tracer is None else _in_span(work, name, kind, headers)


def served(work: Coroutine[Any, Any, T], name: str, headers: Headers | None) -> Coroutine[Any, Any, T]:
    """The answering of a request as a span, whose parent came with the request's headers."""
    return work if _tracer is None else _in_span(work, name, "server", headers)


async def _in_span(work: Awaitable[T], name: str, kind: Kind, headers: Headers | None) -> T:
    with span(name, kind, headers):
        return await work
