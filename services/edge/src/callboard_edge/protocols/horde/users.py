"""Users, who are the accounts of the site, and what they give to each other."""

import hashlib
import re
import secrets
from typing import Any

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.kudos import KUDOS_SCALE, KudosReply, KudosTransferRequest
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Method, Route
from callboard_edge.protocols.horde.bodies import SharedKeyBody, TransferAnswer, TransferBody, UserAnswer
from callboard_edge.protocols.horde.errors import ANSWERS, Refusal
from callboard_edge.protocols.horde.generation import TAG
from callboard_edge.protocols.horde.prices import kudos_shown
from callboard_edge.protocols.horde.rate_limits import RateLimits
from callboard_edge.protocols.horde.requesters import ACCOUNT_MARK, APIKEY, account_of, key_of

ANONYMOUS = "Anonymous#0"
_NUMBER = re.compile(r"[0-9]{1,20}")
MAX_NUMBER = 2**64
_SHARED_KEYS: tuple[tuple[Method, str], ...] = (
    ("PUT", "/api/v2/sharedkeys"),
    ("GET", "/api/v2/sharedkeys/{id}"),
    ("PATCH", "/api/v2/sharedkeys/{id}"),
    ("DELETE", "/api/v2/sharedkeys/{id}"),
)


def routes(context: EdgeContext, limits: RateLimits) -> list[Route]:
    """The routes of this module."""

    async def find(call: Call) -> web.StreamResponse:
        limits.other(call)
        if not call.request.headers.get(APIKEY, "").strip():
            raise Refusal(401, "InvalidAPIKey", "An API key is required.")
        try:
            account = await account_of(context, call)
        except CallboardError as error:
            if error.info.code is ErrorCode.INVALID_API_KEY and key_of(call.request.headers):
                raise Refusal(404, "UserNotFound", "This site has no user of that API key.") from error
            raise
        return call.answer(_user(ANONYMOUS, 0, 0) if account is None else _own(context, await _kudos(context, account)))

    async def user(call: Call) -> web.StreamResponse:
        limits.other(call)
        own = await account_of(context, call) if call.request.headers.get(APIKEY) else None
        if call.params["id"] == "0":
            return call.answer(_user(ANONYMOUS, 0, 0))
        account = _account(call.params["id"])
        reply = await _kudos(context, account)
        return call.answer(_own(context, reply) if account == own else _user(_username(reply), _number(account), None))

    async def transfer(call: Call) -> web.StreamResponse:
        limits.other(call)
        source = await account_of(context, call)
        body = await call.json(TransferBody)
        if source is None:
            raise Refusal(400, "KudosTransferFromAnon", "The anonymous key has no kudos to give.")
        await _transfer(context, call, source, body)
        return call.answer({"transferred": body.amount})

    async def shared(call: Call) -> web.StreamResponse:
        limits.other(call)
        raise Refusal(403, "Forbidden", "Shared keys are not offered here; use an API key of this site.")

    answers = {200: Answer("The user.", UserAnswer), **ANSWERS}
    return [
        Route("GET", "/api/v2/find_user", find, "horde_find_user", "Show the key's own user", TAG, answers=answers),
        Route("GET", "/api/v2/users/{id}", user, "horde_user", "Show a user", TAG, answers=answers),
        Route(
            "POST",
            "/api/v2/kudos/transfer",
            transfer,
            "horde_transfer",
            "Give kudos to another user",
            TAG,
            body=TransferBody,
            answers={200: Answer("What was given.", TransferAnswer), **ANSWERS},
        ),
        *(
            Route(
                method,
                path,
                shared,
                "horde_shared_key",
                "Refuse shared keys",
                TAG,
                body=SharedKeyBody if method in ("PUT", "PATCH") else None,
                security="none",
                documented=False,
            )
            for method, path in _SHARED_KEYS
        ),
    ]


async def _kudos(context: EdgeContext, account: str) -> KudosReply:
    reply = await context.admission.deps.quota.kudos(account)
    if reply.error is None:
        return reply
    if reply.error.code is ErrorCode.INVALID_REQUEST:
        raise _no_user()
    raise CallboardError.of(reply.error)


async def _transfer(context: EdgeContext, call: Call, source: str, body: TransferBody) -> None:
    name, _, number = body.username.rpartition("#")
    if number == "0":
        raise Refusal(400, "KudosTransferToAnon", "Nobody can give kudos to Anonymous.", "username")
    target = _account(number)
    if target == source:
        raise Refusal(400, "KudosTransferToSelf", "You cannot give kudos to yourself.", "username")
    if (await _kudos(context, target)).name != name:
        raise _no_user()
    amount = body.amount * KUDOS_SCALE
    request = KudosTransferRequest(id=_transaction(source, call), source=source, target=target, amount=amount)
    reply = await context.admission.deps.quota.transfer_kudos(request)
    if reply.error is None:
        return
    if reply.error.code is ErrorCode.QUOTA_EXCEEDED:
        raise Refusal(400, "KudosTransferNotEnough", reply.error.message, "amount")
    raise CallboardError.of(reply.error)


def _own(context: EdgeContext, reply: KudosReply) -> dict[str, Any]:
    workers = [record.id for record in context.volunteers.of_account(reply.account)]
    user = _user(_username(reply), _number(reply.account), kudos_shown(reply.balance))
    return {**user, "worker_count": len(workers), "worker_ids": workers}


def _username(reply: KudosReply) -> str:
    return f"{reply.name}#{_number(reply.account)}"


def _user(username: str, number: int, kudos: float | None) -> dict[str, Any]:
    user: dict[str, Any] = {
        "username": username,
        "id": number,
        "worker_count": 0,
        "worker_ids": [],
        "trusted": False,
        "flagged": False,
        "moderator": False,
    }
    return user if kudos is None else {**user, "kudos": kudos}


def _number(account: str) -> int:
    """The Horde's users have numbers; an account's is its id."""
    return int(account.removeprefix(ACCOUNT_MARK), 16)


def _account(number: str) -> str:
    if not _NUMBER.fullmatch(number) or int(number) >= MAX_NUMBER:
        raise _no_user()
    return f"{ACCOUNT_MARK}{int(number):016x}"


def _no_user() -> Refusal:
    return Refusal(404, "UserNotFound", "This site has no user of that name.")


def _transaction(source: str, call: Call) -> str:
    """A request that is sent again with the same `Idempotency-Key` gives once."""
    if not call.message_id:
        return f"horde-{secrets.token_hex(16)}"
    return f"horde-{hashlib.sha256(f'{source} {call.message_id}'.encode()).hexdigest()[:32]}"
