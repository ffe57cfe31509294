"""The admin API's view of kudos, with the operations of `callboard kudos`.

Verification reads every transaction that was ever made, so it is left to the command line.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from decimal import Decimal
from typing import Any, TypeVar

from aiohttp import web

from callboard_admin.periods import parse_start, show_time
from callboard_contracts.kudos import KUDOS_SCALE, KudosChange, KudosPayment, KudosTransaction
from callboard_edge.domain.administration import Administration
from callboard_edge.http.bodies import parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.error_objects import ErrorAnswer
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.admin.accounts import UNKNOWN, named, note_change
from callboard_edge.protocols.admin.auth import AdminAuth
from callboard_edge.protocols.admin.bodies import (
    BalanceObject,
    EarnBody,
    HistoryObject,
    HistoryQuery,
    LeaderQuery,
    LeadersObject,
    PaymentsObject,
    TransactionObject,
    TransferBody,
)

DEFAULT_SINCE = "30d"
Told = TypeVar("Told", KudosChange, KudosPayment)


def routes(admin: Administration, guard: AdminAuth) -> list[Route]:
    """The routes of this module."""

    async def account_id(who: str) -> str:
        return (await admin.accounts.find(who))[0].id

    async def show(call: Call) -> web.StreamResponse:
        account = await account_id(named(call))
        return call.answer({"account": account, "kudos": await admin.kudos.balance(account) / KUDOS_SCALE})

    async def earn(call: Call) -> web.StreamResponse:
        body = await call.json(EarnBody)
        account = await account_id(named(call))
        transaction = await admin.kudos.earn(account, _thousandths(body.amount), body.id)
        note_change(call, "kudos_earn", account)
        return _answer(call, transaction)

    async def transfer(call: Call) -> web.StreamResponse:
        body = await call.json(TransferBody)
        source, target = await account_id(named(call)), await account_id(body.to)
        transaction = await admin.kudos.transfer(source, target, _thousandths(body.amount), body.id)
        note_change(call, "kudos_transfer", source)
        return _answer(call, transaction)

    async def history(call: Call) -> web.StreamResponse:
        query = parse_query(HistoryQuery, call.request.query)
        account = await account_id(named(call))
        changes, after = await _part(admin.kudos.history(account, _since(query), query.after), query.limit)
        return call.answer({"account": account, "changes": [_shown(change) for change in changes], "next": after})

    async def leaders(call: Call) -> web.StreamResponse:
        query = parse_query(LeaderQuery, call.request.query)
        since = parse_start(query.since or DEFAULT_SINCE, time.time(), "since")
        names = {account.id: account.name for account in await admin.accounts.all()}
        found = [
            {
                "account": leader.account,
                "name": names.get(leader.account),
                "rewards": leader.rewards / KUDOS_SCALE,
                "uptime": leader.uptime / KUDOS_SCALE,
                "kudos": await admin.kudos.balance(leader.account) / KUDOS_SCALE,
            }
            for leader in await admin.kudos.leaders(since, query.limit)
        ]
        return call.answer({"leaders": found})

    async def payments(call: Call) -> web.StreamResponse:
        query = parse_query(HistoryQuery, call.request.query)
        worker = call.params["worker"]
        paid, after = await _part(admin.kudos.payments(worker, _since(query), query.after), query.limit)
        shown = [
            {
                "at": show_time(one.at),
                "account": one.account,
                "amount": one.amount / KUDOS_SCALE,
                "reason": one.reason,
                "id": one.id,
            }
            for one in paid
        ]
        return call.answer({"worker": worker, "payments": shown, "next": after})

    one = "/accounts/{account}/kudos"
    made = Answer("The transaction, made now or before under the same id.", TransactionObject)
    return [
        guard.route(
            "GET",
            one,
            show,
            "admin_kudos",
            "Show what an account has in kudos",
            answers={200: Answer("Its balance.", BalanceObject), 404: UNKNOWN},
        ),
        guard.route(
            "POST",
            one,
            earn,
            "admin_kudos_earn",
            "Credit an account with kudos, once for each id",
            body=EarnBody,
            answers={200: made, 404: UNKNOWN},
        ),
        guard.route(
            "POST",
            f"{one}/transfer",
            transfer,
            "admin_kudos_transfer",
            "Move kudos to another account, once for each id",
            body=TransferBody,
            answers={200: made, 404: UNKNOWN, 429: Answer("The account has fewer.", ErrorAnswer)},
        ),
        guard.route(
            "GET",
            f"{one}/history",
            history,
            "admin_kudos_history",
            "List every change of an account's kudos",
            query=HistoryQuery,
            answers={200: Answer("The changes, the oldest first.", HistoryObject), 404: UNKNOWN},
        ),
        guard.route(
            "GET",
            "/kudos/leaders",
            leaders,
            "admin_kudos_leaders",
            "List the accounts whose volunteers earned most",
            query=LeaderQuery,
            answers={200: Answer("The accounts, the one that earned most first.", LeadersObject)},
        ),
        guard.route(
            "GET",
            "/kudos/workers/{worker}/history",
            payments,
            "admin_kudos_worker_history",
            "List what a volunteer was paid",
            query=HistoryQuery,
            answers={200: Answer("The payments, the oldest first.", PaymentsObject)},
        ),
    ]


def _since(query: HistoryQuery) -> float:
    if query.since is None and query.after:
        return 0.0
    return parse_start(query.since or DEFAULT_SINCE, time.time(), "since")


async def _part(all_of_it: AsyncGenerator[Told], limit: int) -> tuple[list[Told], int | None]:
    """The first of what is told, and the `after` of what follows, None at the end."""
    told: list[Told] = []
    async with aclosing(all_of_it) as found:
        async for one in found:
            if len(told) == limit:
                return told, told[-1].seq
            told.append(one)
    return told, None


def _thousandths(amount: Decimal) -> int:
    return int(amount * KUDOS_SCALE)


def _answer(call: Call, transaction: KudosTransaction) -> web.StreamResponse:
    return call.answer(
        {
            "id": transaction.id,
            "account": transaction.account,
            "kudos": transaction.balance / KUDOS_SCALE,
            "repeated": transaction.repeated,
        }
    )


def _shown(change: KudosChange) -> dict[str, Any]:
    return {
        "at": show_time(change.at),
        "change": change.change / KUDOS_SCALE,
        "kudos": change.balance / KUDOS_SCALE,
        "by": change.reason,
    }
