"""What every request passes, whatever its path: its protocol, ids, the caller, CORS, errors and metrics."""

import asyncio
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from aiohttp import web
from multidict import CIMultiDict

from callboard_contracts.accounts import KEY_PREFIX, key_digest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.holds_ahead import HoldsAhead, fresh_id
from callboard_edge.domain.submission import QuotaRefused
from callboard_edge.http.addresses import client_address
from callboard_edge.http.body_reader import MAX_OPEN_BODY_BYTES, BodyBudget, BodyReader
from callboard_edge.http.call import Call, LimitHeaders
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.cors import Cors
from callboard_edge.http.protocol import SITE, NamesLimits, NamesRequests, Protocol
from callboard_edge.http.route import Route
from callboard_edge.http.router import Match, Router
from callboard_kit import tracing
from callboard_kit.lifecycle import is_set_within

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
SERVER = "callboard"
_NO_BROWSERS = Cors(())
_UNTRACED = nullcontext()
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class ServedRoute:
    """A route and the protocol that it belongs to."""

    route: Route
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class _Terms:
    """What is settled at the start of how requests are answered: those to one route, or to none of a protocol."""

    protocol: Protocol
    bodies: BodyReader
    cors: Cors
    id_header: str | None
    limit_headers: LimitHeaders | None


class Dispatcher:
    """Takes each request to its handler and each error to its client."""

    def __init__(self, context: EdgeContext, served: Sequence[ServedRoute], protocols: Sequence[Protocol]) -> None:
        self._router = Router(one.route for one in served)
        self._by_prefix = sorted(
            ((prefix, protocol) for protocol in protocols for prefix in protocol.prefixes),
            key=lambda entry: -len(entry[0]),
        )
        self._site = next(protocol for protocol in protocols if protocol.name == SITE)
        self._settings = context.settings
        self._metrics = context.metrics
        largest = max((one.route.max_body_bytes or 0 for one in served), default=0)
        budget = BodyBudget(max(MAX_OPEN_BODY_BYTES, largest))
        bodies = BodyReader(context.settings.max_body_bytes, context.settings.body_timeout_s, budget)
        cors = Cors(context.settings.cors_origins)
        self._terms = {id(one.route): _terms(one.protocol, one.route, bodies, cors) for one in served}
        self._terms_without_route = {one.name: _terms(one, None, bodies, cors) for one in protocols}
        self._holds_ahead = context.holds_ahead
        self._check_caller = context.admission.check_caller
        self._traced = tracing.is_on()
        self.closing = False
        """Set when the process stops: each answer then ends its connection."""
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request."""
        if not self._open:
            self._idle.clear()
        self._open += 1
        method = request.method
        ahead = self._holds_ahead if method == "POST" else None
        call: Call | None = None
        try:
            match, terms = self._found(request, method)
            protocol, route = terms.protocol, match.route
            if method == "OPTIONS":
                preflight = terms.cors.preflight(request.headers)
                return web.Response(headers={**preflight, "Server": SERVER})
            call = self._begun(request, match.params, terms, ahead)
            if route is None:
                return self._finished(call, None, protocol, _not_served(protocol, match.methods))
            with _span(call, route, protocol) if self._traced else _UNTRACED:
                try:
                    if route.security == "key":
                        # Nothing of a body is read for a caller who has to show a key and has none.
                        await self._check_caller(call.caller)
                    response = await route.handler(call)
                except (asyncio.CancelledError, ConnectionError) as gone:
                    self._gone(call, route, protocol, gone)
                    raise
                except Exception as error:
                    response = self._refusal(call, route, protocol, error)
                return self._finished(call, route, protocol, response)
        finally:
            if ahead is not None and call is not None:
                ahead.end(call.fresh_id)
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Returns true when no request is being answered, or false after the timeout."""
        return await is_set_within(self._idle, timeout_s)

    def _found(self, request: web.BaseRequest, method: str) -> tuple[Match, _Terms]:
        raw_path = request.rel_url.raw_path
        match = self._router.find(method, raw_path, request.headers)
        if match.route is None:
            return match, self._terms_without_route[self._protocol_of(raw_path, request.headers).name]
        return match, self._terms[id(match.route)]

    def _begun(
        self, request: web.BaseRequest, params: Mapping[str, str], terms: _Terms, ahead: HoldsAhead | None
    ) -> Call:
        """The call of a request, with the headers that its answer has in any case."""
        given = request.headers
        own_id = given.get(REQUEST_ID, "")
        headers = CIMultiDict(terms.cors.headers(given.get("Origin")))
        caller = self._caller(request, terms.protocol)
        call = Call(
            request,
            fresh_id() if ahead is None else ahead.begin(caller),
            own_id if own_id and _SAFE_ID.fullmatch(own_id) else None,
            caller,
            params,
            headers,
            terms.bodies,
            terms.limit_headers,
        )
        headers[REQUEST_ID] = call.request_id
        if terms.id_header is not None:
            headers[terms.id_header] = call.request_id
        headers["Server"] = SERVER
        if own_id == call.request_id:
            log.info("request_named", extra={"request_id": call.fresh_id, "client_request_id": call.request_id})
        return call

    def _refusal(self, call: Call, route: Route, protocol: Protocol, error: Exception) -> web.StreamResponse:
        if not isinstance(error, CallboardError):
            log.error("handler_failed", exc_info=error, extra={"request_id": call.request_id, "route": route.name})
            error = CallboardError(ErrorCode.INTERNAL, "Something failed inside; the log has the request id.")
        self._count_error(route, error)
        if call.response is not None and call.response.prepared:
            # The status is out already, so all that can be shown is that the answer is not whole.
            call.abort()
            return call.response
        response = protocol.render_error(error)
        if error.info.retry_after_s is not None:
            response.headers.setdefault("Retry-After", str(max(1, math.ceil(error.info.retry_after_s))))
        if isinstance(error, QuotaRefused):
            call.tell_limits(error.states)
        if error.info.code in (ErrorCode.REQUEST_TIMEOUT, ErrorCode.BODY_TOO_LARGE, ErrorCode.OVERLOADED):
            response.force_close()
        return response

    def _finished(
        self, call: Call, route: Route | None, protocol: Protocol, response: web.StreamResponse
    ) -> web.StreamResponse:
        name = route.name if route else "none"
        if not response.prepared:
            response.headers.update(call.headers)
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                call.sent_bytes += len(response.body)
            if self.closing:
                response.force_close()
        status = response.status
        figures = self._metrics.answered(name, protocol.name if route else "none", call.mode, f"{status // 100}xx")
        figures.requests.inc()
        trace_ids = tracing.ids() if self._traced else None
        figures.duration.observe(time.perf_counter() - call.started_s, trace_ids)
        figures.sent_bytes.inc(call.sent_bytes)
        first_byte_s: float | None = None
        if call.first_byte_s is not None and call.mode == "stream":
            first_byte_s = call.first_byte_s - call.started_s
            figures.first_byte.observe(first_byte_s, trace_ids)
        if self._traced:
            tracing.annotate({"http.response.status_code": status})
            if first_byte_s is not None:
                tracing.annotate({"callboard.time_to_first_byte_s": first_byte_s})
        return response

    def _gone(self, call: Call, route: Route, protocol: Protocol, reason: BaseException) -> None:
        self._metrics.clients_gone.labels(route.name).inc()
        self._metrics.requests.labels(route.name, protocol.name, call.mode, "gone").inc()
        self._metrics.sent_bytes.labels(route.name).inc(call.sent_bytes)
        if isinstance(reason, ConnectionError):
            call.abort()

    def _count_error(self, route: Route, error: CallboardError) -> None:
        code = error.info.code.value
        self._metrics.errors.labels(route.name, code).inc()
        tracing.annotate({"error.type": code})
        if error.info.kind.status == 429:
            self._metrics.too_many.labels(code).inc()

    def _protocol_of(self, raw_path: str, headers: Mapping[str, str]) -> Protocol:
        """The protocol of a path that is not served; the site's own where that is of no use to whoever asks."""
        path = raw_path.partition("?")[0] + "/"
        prefix, protocol = next(
            (prefix, protocol) for prefix, protocol in self._by_prefix if not prefix or path.startswith(f"{prefix}/")
        )
        if prefix:
            return protocol
        # A page of KoboldAI Lite in a folder asks below that first, and tries the root only after what is no JSON.
        nested = any(f"{inner}/" in path for inner, owner in self._by_prefix if inner and owner is not protocol)
        return self._site if nested or "text/html" in headers.get("Accept", "") else protocol

    def _caller(self, request: web.BaseRequest, protocol: Protocol) -> Caller:
        headers = request.headers
        key = protocol.credentials(headers)
        if not self._settings.require_key and not key.startswith(KEY_PREFIX):
            # Many programs cannot leave the key out and send a word of their own; where none is needed, it is none.
            key = ""
        trusted = self._settings.trusted_proxies
        forwarded = headers.getall("X-Forwarded-For", ()) if trusted else ()
        address = client_address(request.remote, forwarded, trusted)
        return Caller(key_digest(key) if key else None, address)


def _terms(protocol: Protocol, route: Route | None, bodies: BodyReader, cors: Cors) -> _Terms:
    if route is not None and route.max_body_bytes is not None:
        # A body that may be larger may also take longer.
        timeout_s = bodies.body_timeout_s * max(1.0, route.max_body_bytes / bodies.max_body_bytes)
        bodies = replace(bodies, max_body_bytes=route.max_body_bytes, body_timeout_s=timeout_s)
    return _Terms(
        protocol,
        bodies,
        cors if protocol.browsers else _NO_BROWSERS,
        protocol.request_id_header if isinstance(protocol, NamesRequests) else None,
        protocol.limit_headers if isinstance(protocol, NamesLimits) else None,
    )


def _span(call: Call, route: Route, protocol: Protocol) -> AbstractContextManager[None]:
    """The span of a request; the site's own pages have none."""
    if protocol.name == SITE:
        return _UNTRACED
    attributes = {
        "http.request.method": route.method,
        "http.route": route.path,
        "callboard.request_id": call.fresh_id,
    }
    return tracing.span(f"{call.request.method} {route.path}", "server", call.request.headers, attributes)


def _not_served(protocol: Protocol, methods: tuple[str, ...]) -> web.Response:
    if not methods:
        return protocol.render_error(CallboardError(ErrorCode.NOT_FOUND, "Nothing is served at this path."))
    allowed = ", ".join(methods)
    response = protocol.render_error(CallboardError(ErrorCode.METHOD_NOT_ALLOWED, f"This path takes {allowed} only."))
    response.headers["Allow"] = ", ".join((*methods, "OPTIONS"))
    return response
