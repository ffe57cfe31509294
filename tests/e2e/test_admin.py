"""The admin API over real processes: what an operator does there counts everywhere at once."""

import asyncio
import csv
import io
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import MakeBoard
from tests.support.deployment import Deployment

pytestmark = pytest.mark.e2e

TOKEN = "an-operators-own-long-token"
OVER = {"edge": {"admin_token": TOKEN}}
ASKING = {"model": "owl", "messages": [{"role": "user", "content": "Hi"}]}


class Operator:
    """Asks the admin API of a deployment, and chats with the keys that it gives out."""

    def __init__(self, deployment: Deployment, session: aiohttp.ClientSession) -> None:
        self._board = deployment
        self._session = session

    async def ask(
        self, method: str, path: str, body: Any = None, *, token: str = TOKEN, edge: int = 0
    ) -> tuple[int, Any]:
        """The status and JSON of an answer."""
        url = f"{self._board.root_url(edge)}/admin/v1{path}"
        headers = {"Authorization": f"Bearer {token}"}
        async with self._session.request(method, url, json=body, headers=headers) as reply:
            return reply.status, await (reply.json() if reply.content_type == "application/json" else reply.read())

    async def chat(
        self, key: str, edge: int = 0, path: str = "chat/completions", body: Any = ASKING
    ) -> tuple[int, Any, Any]:
        """The status, JSON and headers of a reply."""
        url = f"{self._board.root_url(edge)}/v1/{path}"
        async with self._session.post(url, json=body, headers={"Authorization": f"Bearer {key}"}) as reply:
            return reply.status, await reply.json(), reply.headers


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30))


@pytest.mark.timeout(400)
async def test_key_is_made_used_rotated_and_revoked_over_http(make_deployment: MakeBoard) -> None:
    deployment = await asyncio.to_thread(make_deployment, OVER, quotas=2, edges=2)
    async with session() as one:
        operator = Operator(deployment, one)
        status, made = await operator.ask("POST", "/accounts", {"name": "ann", "tier": "standard"})
        assert status == 201
        account, key = made["account"]["id"], made["key"]
        status, reply, headers = await operator.chat(key, edge=1)
        assert status == 200, reply
        assert headers["x-ratelimit-limit-tokens"] == "10000000"
        await asyncio.to_thread(deployment.wait_idle)

        status, usage = await operator.ask("GET", "/usage?who=ann", edge=1)
        assert (status, [one["tokens"] for one in usage["usage"]]) == (200, [reply["usage"]["total_tokens"]])
        status, exported = await operator.ask("GET", f"/usage/export?since=1h&who={account}")
        rows = list(csv.DictReader(io.StringIO(exported.decode())))
        assert [(row["tenant"], row["completion_tokens"]) for row in rows] == [
            (account, str(reply["usage"]["completion_tokens"]))
        ]
        status, report = await operator.ask("POST", "/usage/verify", {"since": "2h"})
        assert (status, report["drift_count"], report["events"] >= 1, report["open_holds"]) == (200, 0, True, 0)
        status, audit_trail = await operator.ask("GET", f"/audit/{headers['x-request-id']}")
        assert audit_trail["events"] == (await operator.ask("GET", f"/audit/{rows[0]['request_id']}"))[1]["events"]
        assert [event["what"] for event in audit_trail["events"]] == ["admitted", "settled"]

        # The command line sees and does the same.
        shown = await asyncio.to_thread(deployment.command, "usage", "show", "ann")
        assert f"{reply['usage']['total_tokens']}" in shown.splitlines()[1].split()

        ends = datetime.now(UTC) + timedelta(seconds=4)
        status, rotated = await operator.ask("POST", f"/accounts/{account}/rotate", {"keep": ends.isoformat()})
        assert status == 201
        assert [(await operator.chat(each))[0] for each in (key, rotated["key"])] == [200, 200]
        await asyncio.sleep((ends - datetime.now(UTC)).total_seconds() + 0.2)
        assert [(await operator.chat(each))[0] for each in (key, rotated["key"])] == [401, 200]
        status, _answer = await operator.ask("POST", f"/accounts/{account}/rotate", {"keep": "0m"})
        assert status == 201
        assert [(await operator.chat(each))[0] for each in (key, rotated["key"])] == [401, 401]
        last = _answer["key"]
        for _ in range(4):
            # Each quota process has seen the key, and must not go on with what it remembers.
            assert [(await operator.chat(last, edge))[0] for edge in (0, 1)] == [200, 200]
        status, _answer = await operator.ask("POST", "/keys/revoke", {"who": last})
        assert status == 200
        for _ in range(4):
            assert [(await operator.chat(last, edge))[0] for edge in (0, 1)] == [401, 401]
        assert (await operator.ask("GET", "/accounts", token=last))[0] == 401
        text = "".join(service.running.output() for service in deployment.services)
        assert not [secret for secret in (TOKEN, key, rotated["key"], last) if secret in text]
    await asyncio.to_thread(deployment.stop)


@pytest.mark.timeout(400)
async def test_limit_changed_over_http_counts_at_once_and_its_refusal_says_what_and_when(
    make_deployment: MakeBoard,
) -> None:
    deployment = await asyncio.to_thread(make_deployment, OVER, quotas=2)
    async with session() as one:
        operator = Operator(deployment, one)
        key = (await operator.ask("POST", "/accounts", {"name": "ben"}))[1]["key"]
        assert (await operator.chat(key))[0] == 200
        limits = {"requests_per_minute": 0, "tokens_per_day": 5000}
        status, _answer = await operator.ask("PATCH", "/accounts/ben", {"limits": limits})
        assert status == 200
        for path, body in (("chat/completions", ASKING), ("audio/speech", {"model": "parrot", "input": "Hi."})):
            status, answer, headers = await operator.chat(key, path=path, body=body)
            assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
            assert answer["error"]["limit"] == "key.requests_per_minute"
            assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("0", "0")
        status, _answer = await operator.ask("PATCH", "/accounts/ben", {"limits": {"requests_per_minute": 1}})
        refusals: list[Any] = []
        for _ in range(4):
            # A minute may begin in between, and then one more is let in.
            status, answer, headers = await operator.chat(key)
            refusals += [(answer["error"]["limit"], headers)] if status == 429 else []
        limit, headers = refusals[-1]
        assert limit == "key.requests_per_minute"
        assert 1 <= int(headers["Retry-After"]) <= 61
        assert 1 <= int(headers["retry-after-ms"]) <= 61_000
        assert headers["x-should-retry"] in {"true", "false"}
        limits = {"requests_per_minute": None}
        status, _answer = await operator.ask("PATCH", "/accounts/ben", {"limits": limits})
        status, _answer, headers = await operator.chat(key)
        assert (status, headers["x-ratelimit-limit-tokens"]) == (200, "5000")
        assert 0 < int(headers["x-ratelimit-remaining-tokens"]) < 5000
        assert headers["x-ratelimit-reset-tokens"]
    await asyncio.to_thread(deployment.stop)


@pytest.mark.timeout(400)
async def test_kudos_are_credited_and_given_once_over_http_while_a_quota_process_dies(
    make_deployment: MakeBoard,
) -> None:
    deployment = await asyncio.to_thread(make_deployment, OVER, quotas=2)
    async with session() as one:
        operator = Operator(deployment, one)
        for name in ("ann", "bob"):
            assert (await operator.ask("POST", "/accounts", {"name": name}))[0] == 201

        async def insist(path: str, body: Any) -> Any:
            for _ in range(20):
                status, answer = await operator.ask("POST", path, body)
                if status == 200:
                    return answer
                assert status == 503, answer
            raise AssertionError("quota never answered")

        gifts = [{"to": "bob", "amount": 0.25, "id": f"gift-{n}"} for n in range(40)]
        assert (await insist("/accounts/ann/kudos", {"amount": 10.5, "id": "first"}))["kudos"] == 10.5
        giving = [asyncio.ensure_future(insist("/accounts/ann/kudos/transfer", gift)) for gift in gifts]
        await asyncio.wait(giving, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(deployment.quotas[0].running.kill)
        made = await asyncio.gather(*giving)
        assert sorted(transaction["id"] for transaction in made) == sorted(gift["id"] for gift in gifts)
        assert (await insist("/accounts/ann/kudos", {"amount": 10.5, "id": "first"}))["repeated"]
        assert (await insist("/accounts/ann/kudos/transfer", gifts[0]))["repeated"]

        balances = [(await operator.ask("GET", f"/accounts/{name}/kudos"))[1]["kudos"] for name in ("ann", "bob")]
        assert balances == [0.5, 10.0]
        status, answer = await operator.ask("POST", "/accounts/ann/kudos/transfer", {"to": "bob", "amount": 0.501})
        assert (status, answer["error"]["limit"]) == (429, "key.kudos")
        changes: list[float] = []
        after = 0
        while after is not None:
            status, told = await operator.ask("GET", f"/accounts/ann/kudos/history?limit=16&after={after}")
            assert status == 200
            changes += [change["change"] for change in told["changes"]]
            after = told["next"]
        # What was refused was taken and given back, and all of it adds up.
        assert changes[0] == 10.5
        assert (changes.count(-0.25), round(sum(changes), 3)) == (40, 0.5)
        assert (await asyncio.to_thread(deployment.command, "kudos", "show", "bob")).split()[1] == "10"
        assert "balances 10.5" in await asyncio.to_thread(deployment.command, "kudos", "verify")
    await asyncio.to_thread(deployment.stop)


@pytest.mark.timeout(400)
async def test_verification_whose_quota_process_is_killed_ends_in_a_clear_error(make_deployment: MakeBoard) -> None:
    deployment = await asyncio.to_thread(make_deployment, OVER)
    async with session() as one:
        operator = Operator(deployment, one)
        quota = deployment.quotas[0].running
        # Stopped, the process takes the question and never works on it; killed, it can no longer answer at all.
        quota.signal(signal.SIGSTOP)
        asking = asyncio.ensure_future(operator.ask("POST", "/usage/verify"))
        await asyncio.sleep(1)
        await asyncio.to_thread(quota.kill)
        status, answer = await asyncio.wait_for(asking, 30)
        assert (status, answer["error"]["code"]) == (503, "quota_unavailable")
        assert "not heard of again" in answer["error"]["message"]

        async def gone() -> str:
            status, answer = await operator.ask("POST", "/usage/verify")
            assert status == 503
            return answer["error"]["message"]

        assert await gone() == "No quota process answers."
        deployment.quotas[0].start()
        await asyncio.to_thread(deployment.quotas[0].wait_ready)
        assert (await operator.ask("POST", "/usage/verify"))[0] == 200
    await asyncio.to_thread(deployment.stop)
