"""The admin API's accounts and keys, with the operations of `callboard keys`."""

import logging
import time
from typing import Any

from aiohttp import web

from callboard_admin.accounts import check_tier
from callboard_admin.periods import parse_end, show_time
from callboard_contracts.accounts import DIGEST_SHOWN, KEY_PREFIX, Account, AccountKey
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.administration import Administration
from callboard_edge.http.bodies import parse, parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.error_objects import ErrorAnswer
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.admin.auth import AdminAuth
from callboard_edge.protocols.admin.bodies import (
    AccountListObject,
    AccountObject,
    AdminBody,
    ChangeBody,
    CreateBody,
    ListQuery,
    NewKeyObject,
    RevokeBody,
    RotateBody,
)

log = logging.getLogger(__name__)

UNKNOWN = Answer("No account or key is called so, or more than one.", ErrorAnswer)


def routes(admin: Administration, guard: AdminAuth) -> list[Route]:
    """The routes of this module."""

    async def create(call: Call) -> web.StreamResponse:
        body = await call.json(CreateBody)
        quota = await admin.quota()
        tier = check_tier(body.tier or quota.default_tier, quota.tiers)
        expires_at = _end(body.expires, "expires", time.time())
        account, key = await admin.accounts.create(body.name, tier, expires_at, _limits(body.limits))
        note_change(call, "create", account.id)
        return call.answer({"key": key, "account": _shown(account)}, status=201)

    async def listing(call: Call) -> web.StreamResponse:
        query = parse_query(ListQuery, call.request.query)
        accounts = await admin.accounts.all()
        if query.after is not None:
            places = [place for place, account in enumerate(accounts) if account.id == query.after]
            if not places:
                raise CallboardError(ErrorCode.INVALID_REQUEST, "There is no account of that id.", param="after")
            accounts = accounts[places[0] + 1 :]
        part = accounts[: query.limit]
        following = part[-1].id if len(part) < len(accounts) else None
        return call.answer({"accounts": [_shown(account) for account in part], "next": following})

    async def show(call: Call) -> web.StreamResponse:
        account, _key = await admin.accounts.find(named(call))
        return call.answer(_shown(account))

    async def change(call: Call) -> web.StreamResponse:
        body = await call.json(ChangeBody)
        tier = None if body.tier is None else check_tier(body.tier, (await admin.quota()).tiers)
        account, _key = await admin.accounts.find(named(call))
        changed = await admin.accounts.change(account.id, tier, _limits(body.limits))
        note_change(call, "change", changed.id)
        return call.answer(_shown(changed))

    async def rotate(call: Call) -> web.StreamResponse:
        body = parse(RotateBody, await call.read() or b"{}")
        now = time.time()
        expires_at = _end(body.expires, "expires", now)
        old_until = parse_end(body.keep or "0m", now, "keep")
        account, _key = await admin.accounts.find(named(call))
        changed, key = await admin.accounts.rotate(account.id, expires_at, old_until)
        note_change(call, "rotate", changed.id)
        return call.answer({"key": key, "account": _shown(changed)}, status=201)

    async def revoke(call: Call) -> web.StreamResponse:
        body = await call.json(RevokeBody)
        account, key = await admin.accounts.find(body.who)
        changed = await admin.accounts.revoke(account.id, key.digest if key else None)
        note_change(call, "revoke", changed.id)
        return call.answer(_shown(changed))

    one = "/accounts/{account}"
    made = Answer("The key, this once, and its account.", NewKeyObject)
    found = {200: Answer("The account as it stands now.", AccountObject), 404: UNKNOWN}
    return [
        guard.route(
            "POST",
            "/accounts",
            create,
            "admin_create",
            "Make an account with a key",
            body=CreateBody,
            answers={201: made},
        ),
        guard.route(
            "GET",
            "/accounts",
            listing,
            "admin_accounts",
            "List the accounts and their keys",
            query=ListQuery,
            answers={200: Answer("Some of them, the oldest first.", AccountListObject)},
        ),
        guard.route("GET", one, show, "admin_account", "Show an account and its keys", answers=found),
        guard.route(
            "PATCH",
            one,
            change,
            "admin_change",
            "Give an account another tier, or limits of its own",
            body=ChangeBody,
            answers={**found, 409: Answer("Others changed it at the same moment.", ErrorAnswer)},
        ),
        guard.route(
            "POST",
            f"{one}/rotate",
            rotate,
            "admin_rotate",
            "Make a new key for an account and let the old ones end",
            body=RotateBody,
            answers={201: made, 404: UNKNOWN},
        ),
        guard.route(
            "POST",
            "/keys/revoke",
            revoke,
            "admin_revoke",
            "Refuse a key, or all keys of an account, from now on",
            body=RevokeBody,
            answers=found,
        ),
    ]


def named(call: Call) -> str:
    """Returns the account that the path names; a key is refused there, since proxies log paths."""
    text = call.params["account"]
    if text.startswith(KEY_PREFIX):
        raise CallboardError(
            ErrorCode.INVALID_REQUEST, "Name a key by the start of its digest, never by itself.", param="account"
        )
    return text


def _end(text: str | None, param: str, now: float) -> float | None:
    return None if text is None else parse_end(text, now, param)


def _limits(body: AdminBody | None) -> dict[str, int | None]:
    return {} if body is None else body.model_dump(exclude_unset=True)


def _shown(account: Account) -> dict[str, Any]:
    now = time.time()
    return {
        "id": account.id,
        "name": account.name,
        "tier": account.tier,
        "limits": account.limits.model_dump(exclude_none=True),
        "created_at": show_time(account.created_at),
        "keys": [_key_shown(key, now) for key in account.keys],
    }


def _key_shown(key: AccountKey, now: float) -> dict[str, Any]:
    state = "revoked" if key.revoked_at is not None else "active" if key.valid_at(now) else "expired"
    return {
        "digest": key.digest[:DIGEST_SHOWN],
        "state": state,
        "created_at": show_time(key.created_at),
        "expires_at": None if key.expires_at is None else show_time(key.expires_at),
        "revoked_at": None if key.revoked_at is None else show_time(key.revoked_at),
    }


def note_change(call: Call, action: str, account_id: str) -> None:
    """Logs what an operator changed."""
    log.info("admin_change", extra={"request_id": call.request_id, "action": action, "account": account_id})
