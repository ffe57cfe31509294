"""Authentication of the admin API by its token."""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Mapping

from aiohttp import web
from pydantic import BaseModel

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.administration import Administration
from callboard_edge.domain.attempts import Attempts
from callboard_edge.http.call import Call
from callboard_edge.http.error_objects import ErrorAnswer
from callboard_edge.http.protocol import bearer
from callboard_edge.http.route import Answer, Handler, Method, Route
from callboard_edge.metrics import EdgeMetrics
from callboard_kit.bucket import Conflict
from callboard_kit.bus import BusError, NoResponders

log = logging.getLogger(__name__)

PREFIX = "/admin/v1"
TAG = "Admin"
REFUSED = {
    400: Answer("A field is wrong.", ErrorAnswer),
    401: Answer("The admin token is missing or wrong.", ErrorAnswer),
    503: Answer("The bus did not answer.", ErrorAnswer),
}


def token_digest(token: str) -> bytes:
    """Returns the digest by which tokens are compared; all are of one length, so the time reveals nothing."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class AdminAuth:
    """Checks the token before each handler, and turns bus errors into errors of the API."""

    def __init__(self, admin: Administration, metrics: EdgeMetrics) -> None:
        self._admin = admin
        self._metrics = metrics
        self._attempts = Attempts()

    def route(
        self,
        method: Method,
        path: str,
        handler: Handler,
        name: str,
        summary: str,
        answers: Mapping[int, Answer],
        body: type[BaseModel] | None = None,
        query: type[BaseModel] | None = None,
    ) -> Route:
        """Returns a route that requires the token; `path` follows the common prefix."""
        return Route(
            method,
            PREFIX + path,
            self._guarded(handler),
            name=name,
            summary=summary,
            tag=TAG,
            body=body,
            query=query,
            security="admin",
            answers={**REFUSED, **answers},
        )

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(call: Call) -> web.StreamResponse:
            await self._check(call)
            call.headers["Cache-Control"] = "no-store"
            try:
                return await handler(call)
            except NoResponders:
                raise _unavailable("No quota process answers.") from None
            except Conflict:
                raise CallboardError(ErrorCode.CONFLICT, "Somebody else made the same change; try again.") from None
            except BusError as error:
                log.warning("admin_failed", extra={"request_id": call.request_id, "reason": str(error)})
                raise CallboardError(
                    ErrorCode.BUS_UNAVAILABLE, f"The message bus did not do its part: {error}.", retry_after_s=2.0
                ) from None

        return guarded

    async def _check(self, call: Call) -> None:
        address = call.caller.address or ""
        if (wait_s := self._attempts.blocked_s(address)) > 0:
            self._metrics.admin_refusals.labels("blocked").inc()
            raise CallboardError(
                ErrorCode.TOO_MANY_ATTEMPTS, "Too many wrong admin tokens from this address.", retry_after_s=wait_s
            )
        given = bearer(call.request.headers)
        if hmac.compare_digest(token_digest(given), self._admin.token_digest):
            self._attempts.clear(address)
            return
        self._attempts.fail(address)
        self._metrics.admin_refusals.labels("wrong" if given else "missing").inc()
        log.warning("admin_refused", extra={"request_id": call.request_id})
        await asyncio.sleep(self._admin.failure_pause_s)
        raise CallboardError(ErrorCode.INVALID_ADMIN_TOKEN, "The admin token is missing or wrong.")


def quota_silent(error: BusError) -> CallboardError:
    """The error for a quota process that stopped during its work."""
    return _unavailable(f"The work was not finished: {error}.")


def _unavailable(message: str) -> CallboardError:
    return CallboardError(ErrorCode.QUOTA_UNAVAILABLE, message, retry_after_s=2.0)
