"""The admin API's view of what was used, with the operations of `callboard usage`."""

import asyncio
import math
import time
from contextlib import aclosing

from aiohttp import web

from callboard_admin.periods import parse_start, show_time
from callboard_admin.usage_exports import CONTENT_TYPES, open_export
from callboard_admin.usage_records import TENANT
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.quota import UNITS_PER_TOKEN, VerifyReply
from callboard_edge.domain.administration import Administration
from callboard_edge.http.bodies import parse, parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.error_objects import ErrorAnswer
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.admin.accounts import UNKNOWN
from callboard_edge.protocols.admin.auth import AdminAuth, quota_silent
from callboard_edge.protocols.admin.bodies import (
    AuditTrailObject,
    ExportQuery,
    UsageQuery,
    UseObject,
    VerifyBody,
)
from callboard_kit.bus import BusUnavailable


def routes(admin: Administration, guard: AdminAuth) -> list[Route]:
    """The routes of this module."""

    async def tenant_of(who: str | None) -> str | None:
        if who is None or TENANT.fullmatch(who):
            return who
        return (await admin.accounts.find(who))[0].id

    async def show(call: Call) -> web.StreamResponse:
        query = parse_query(UsageQuery, call.request.query)
        now = time.time()
        since, until = _span(query.since, query.until, now)
        accounts = {account.id: account for account in await admin.accounts.all()}
        used = await admin.usage.used(since, until or now, await tenant_of(query.who))
        most = sorted(used.items(), key=lambda item: -item[1])[: query.limit]
        return call.answer(
            {
                "since": show_time(since),
                "until": show_time(until or now),
                "tenants": len(used),
                "usage": [
                    {
                        "tenant": tenant,
                        "name": accounts[tenant].name if tenant in accounts else None,
                        "tier": accounts[tenant].tier if tenant in accounts else None,
                        "tokens": units / UNITS_PER_TOKEN,
                    }
                    for tenant, units in most
                ],
            }
        )

    async def export(call: Call) -> web.StreamResponse:
        query = parse_query(ExportQuery, call.request.query)
        since, until = _span(query.since, query.until, time.time())
        tenant = await tenant_of(query.who)
        export_file = await asyncio.to_thread(open_export, query.format)
        if call.request.method == "HEAD":
            return web.Response(headers={"Content-Type": CONTENT_TYPES[query.format]})
        async with aclosing(admin.usage.events(since, math.inf if until is None else until, tenant)) as events:
            # The first events are awaited before the answer begins, so that an early error still has its own status.
            rows = await anext(events, None)
            await call.stream(
                CONTENT_TYPES[query.format], {"Content-Disposition": f'attachment; filename="usage.{query.format}"'}
            )
            while rows is not None:
                if piece := await asyncio.to_thread(export_file.add, rows):
                    await call.write(piece)
                rows = await anext(events, None)
        return await call.finish(await asyncio.to_thread(export_file.finish))

    async def verify(call: Call) -> web.StreamResponse:
        body = parse(VerifyBody, await call.read() or b"{}")
        since, _until = _span(body.since or "24h", None, time.time())
        try:
            reply = await admin.usage.verify(since)
        except BusUnavailable as error:
            raise quota_silent(error) from None
        return call.answer(reply.model_dump(exclude={"error"}))

    async def audit_trail(call: Call) -> web.StreamResponse:
        request_id = call.params["request_id"]
        events = await admin.usage.audit_trail(request_id)
        return call.answer(
            {
                "request_id": request_id,
                "events": [
                    {
                        "at": show_time(event.at),
                        "what": event.kind,
                        "tenant": event.tenant,
                        "tokens": event.units / UNITS_PER_TOKEN,
                        "reason": event.reason,
                        "hold": event.hold_id,
                    }
                    for event in events
                ],
            }
        )

    return [
        guard.route(
            "GET",
            "/usage",
            show,
            "admin_usage",
            "Show what accounts and other tenants used",
            query=UsageQuery,
            answers={200: Answer("Tokens of each.", UseObject), 404: UNKNOWN},
        ),
        guard.route(
            "GET",
            "/usage/export",
            export,
            "admin_export",
            "Export usage events",
            query=ExportQuery,
            answers={
                200: Answer("The events.", media_types=tuple(CONTENT_TYPES.values())),
                404: UNKNOWN,
            },
        ),
        guard.route(
            "POST",
            "/usage/verify",
            verify,
            "admin_verify",
            "Compute every counter again from the usage events",
            body=VerifyBody,
            answers={200: Answer("What differs; nothing where `drift_count` is 0.", VerifyReply)},
        ),
        guard.route(
            "GET",
            "/audit/{request_id}",
            audit_trail,
            "admin_audit",
            "Show what quota did for one request",
            answers={
                200: Answer("The events, in order.", AuditTrailObject),
                404: Answer("Nothing is known of it.", ErrorAnswer),
            },
        ),
    ]


def _span(since: str, until: str | None, now: float) -> tuple[float, float | None]:
    start = parse_start(since, now, "since")
    end = None if until is None else parse_start(until, now, "until")
    if start >= (now if end is None else end):
        raise CallboardError(ErrorCode.INVALID_REQUEST, "It must lie before the end.", param="since")
    return start, end
