"""What every request passes, whatever its path: ids, the caller, CORS, errors and figures."""

import asyncio
import logging
import re
import time
from collections.abc import Sequence

from aiohttp import web
from multidict import CIMultiDict

from callboard_contracts.accounts import KEY_PREFIX, key_digest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.caller import Caller
from callboard_edge.http.addresses import client_address
from callboard_edge.http.call import Call, bearer
from callboard_edge.http.cors import Cors
from callboard_edge.http.route import Route
from callboard_edge.http.router import Router
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.protocols.admin.auth import is_admin_path
from callboard_edge.protocols.openai.errors import openai_style
from callboard_edge.settings import EdgeSettings
from callboard_kit.lifecycle import is_set_within

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
SERVER = "callboard"
_NO_PAGES = Cors(())
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Dispatcher:
    """Takes each request to its handler and each error to its client."""

    def __init__(self, routes: Sequence[Route], settings: EdgeSettings, metrics: EdgeMetrics) -> None:
        self._router = Router(routes)
        self._settings = settings
        self._metrics = metrics
        self._cors = Cors(settings.cors_origins)
        self.closing = False
        """Set when the process stops: each answer then ends its connection."""
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request."""
        self._open += 1
        self._idle.clear()
        try:
            return await self._answer(request)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Returns true when no request is being answered, or false after the timeout."""
        return await is_set_within(self._idle, timeout_s)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        given = request.headers
        cors = _NO_PAGES if is_admin_path(request.path) else self._cors
        if request.method == "OPTIONS":
            return web.Response(headers={**cors.preflight(given), "Server": SERVER})
        own_id = given.get(REQUEST_ID, "")
        headers = CIMultiDict(cors.headers(given.get("Origin")))
        match = self._router.find(request.method, request.path)
        call = Call(
            request,
            own_id if _SAFE_ID.fullmatch(own_id) else None,
            self._caller(request),
            match.params,
            headers,
            max_body_bytes=self._settings.max_body_bytes,
            body_timeout_s=self._settings.body_timeout_s,
        )
        headers[REQUEST_ID] = call.request_id
        headers["Server"] = SERVER
        if own_id == call.request_id:
            log.info("request_named", extra={"request_id": call.fresh_id, "client_request_id": call.request_id})
        if match.route is None:
            return self._finished(call, None, self._nowhere(request, match.methods))
        return await self._handled(call, match.route)

    async def _handled(self, call: Call, route: Route) -> web.StreamResponse:
        try:
            response = await route.handler(call)
        except CallboardError as error:
            self._count_error(route, error)
            response = self._refusal(call, error)
        except asyncio.CancelledError:
            self._gone(call, route)
            raise
        except ConnectionError:
            self._gone(call, route)
            call.abort()
            raise
        except Exception:
            log.exception("handler_failed", extra={"request_id": call.request_id, "route": route.name})
            error = CallboardError(ErrorCode.INTERNAL, "Something failed inside; the log has the request id.")
            self._count_error(route, error)
            response = self._refusal(call, error)
        return self._finished(call, route, response)

    def _refusal(self, call: Call, error: CallboardError) -> web.StreamResponse:
        if call.response is not None and call.response.prepared:
            # The status is out already, so all that can be shown is that the answer is not whole.
            call.abort()
            return call.response
        response = openai_style(error)
        if error.info.code in (ErrorCode.REQUEST_TIMEOUT, ErrorCode.BODY_TOO_LARGE):
            response.force_close()
        return response

    def _finished(self, call: Call, route: Route | None, response: web.StreamResponse) -> web.StreamResponse:
        name = route.name if route else "none"
        protocol = route.protocol if route else "none"
        if not response.prepared:
            response.headers.update(call.headers)
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                call.sent_bytes += len(response.body)
            if self.closing:
                response.force_close()
        figures = self._metrics.answered(name, protocol, call.mode, f"{response.status // 100}xx")
        figures.requests.inc()
        figures.duration.observe(time.perf_counter() - call.started_s)
        figures.sent_bytes.inc(call.sent_bytes)
        if call.first_byte_s is not None:
            figures.first_byte.observe(call.first_byte_s - call.started_s)
        return response

    def _gone(self, call: Call, route: Route) -> None:
        self._metrics.clients_gone.labels(route.name).inc()
        self._metrics.requests.labels(route.name, route.protocol, call.mode, "gone").inc()
        self._metrics.sent_bytes.labels(route.name).inc(call.sent_bytes)

    def _count_error(self, route: Route, error: CallboardError) -> None:
        code = error.info.code.value
        self._metrics.errors.labels(route.name, code).inc()
        if error.info.kind.status == 429:
            self._metrics.too_many.labels(code).inc()

    def _nowhere(self, request: web.BaseRequest, methods: tuple[str, ...]) -> web.Response:
        if methods:
            allowed = ", ".join(methods)
            error = CallboardError(ErrorCode.METHOD_NOT_ALLOWED, f"This path takes {allowed} only.")
        else:
            error = CallboardError(ErrorCode.NOT_FOUND, "Nothing is served at this path.")
        if request.path == "/v1" or request.path.startswith(("/v1/", "/admin/")):
            response = openai_style(error)
        else:
            response = web.Response(text=f"{error}\n", status=error.info.kind.status)
        if methods:
            response.headers["Allow"] = ", ".join((*methods, "OPTIONS"))
        return response

    def _caller(self, request: web.BaseRequest) -> Caller:
        headers = request.headers
        key = bearer(headers) or headers.get("x-api-key", "").strip() or headers.get("apikey", "").strip()
        if not self._settings.require_key and not key.startswith(KEY_PREFIX):
            # Many programs cannot leave the key out and send a word of their own; where none is needed, it is none.
            key = ""
        peer = request.remote
        address = client_address(peer, headers.getall("X-Forwarded-For", ()), self._settings.trusted_proxies)
        return Caller(key_digest(key) if key else None, address)
