"""The AI Horde's protocol for requesters, and the sessions of the clients that speak it."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from callboard_contracts.errors import CATALOGUE, ErrorCode
from callboard_contracts.streams import RESULT
from callboard_edge.protocols.horde.errors import RETURN_CODES
from callboard_edge.protocols.horde.protocol import Horde
from tests.protocols.client import Client
from tests.protocols.conftest import NARROW
from tests.protocols.dialect import Dialect, MalformedRequest, ParsedError, ParsedJob, PolledDialect, Request
from tests.protocols.polled_suite import PolledSuite
from tests.protocols.suite import ErrorSuite, RequestSuite
from tests.protocols.tenants import Tenant, new_tenant
from tests.support.clients import script_text
from tests.support.deployment import CHAT_MODEL, Deployment, eventually
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script

SUBMIT = "/api/v2/generate/text/async"
STATUS = "/api/v2/generate/text/status"
TIMEOUT_S = 60
HCLI_POLL_S = 0.8
LITE_TICK_S = 0.5
WORDS = 5
OWN_ERRORS = frozenset(
    {
        (400, "MissingPrompt"),
        (400, "TokenOverflow"),
        (400, "MissingFullSamplerOrder"),
        (400, "TooManyStopSequences"),
        (400, "ExcessiveStopSequence"),
        (400, "InvalidExtraSourceImages"),
        (400, "NoValidWorkers"),
        (400, "KudosTransferFromAnon"),
        (400, "KudosTransferToAnon"),
        (400, "KudosTransferToSelf"),
        (400, "KudosTransferNotEnough"),
        (401, "InvalidAPIKey"),
        (403, "AnonForbidden"),
        (403, "Forbidden"),
        (403, "NotOwner"),
        (403, "OnlyServiceAccountProxy"),
        (403, "SharedKeyExpired"),
        (404, "StyleNotFound"),
        (404, "UserNotFound"),
        (404, "WorkerNotFound"),
        (400, "AbortedGen"),
        (400, "DuplicateGen"),
        (400, "InvalidPriorityUsername"),
        (400, "PolymorphicNameConflict"),
        (403, "AnonForbiddenWorker"),
        (403, "TooManySameIPs"),
        (403, "TooManyWorkers"),
        (403, "WorkerFlaggedMaintenance"),
        (403, "WorkerMaintenance"),
        (403, "WrongCredentials"),
        (404, "InvalidJobID"),
    }
)


class HordeDialect(Dialect):
    """What all paths share."""

    protocol = Horde()
    errors: Mapping[ErrorCode, tuple[int, str]] = {
        **{code: (kind.status, RETURN_CODES.get(code, code.value)) for code, kind in CATALOGUE.items()},
        ErrorCode.UNKNOWN_MODEL: (400, "UnsupportedModel"),
    }
    own_errors = OWN_ERRORS

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"apikey": key}

    def read_error(self, body: bytes) -> ParsedError:
        found = json.loads(body)
        assert set(found) <= {"message", "rc", "errors"}
        return ParsedError(found["rc"], found["message"])


class HordeText(HordeDialect, PolledDialect):
    """Texts."""

    path = SUBMIT

    def submit(self, text: str = "Hello.", *, model: str = CHAT_MODEL, max_tokens: int = 250) -> Request:
        params = {"max_length": max_tokens, "max_context_length": 1024}
        return Request(self.path, json.dumps({"prompt": text, "models": [model], "params": params}).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        bodies = {
            "unreadable": b'{"prompt": {Hello}',
            "not UTF-8": b'{"prompt": "\xff\xfe"}',
            "wrong type": b'{"prompt": 7}',
            "no object": b"[]",
            "out of range": b'{"prompt": "Hello.", "params": {"n": 21}}',
            "not a number": b'{"prompt": "Hello.", "params": {"temperature": NaN}}',
        }
        cases = {name: MalformedRequest(Request(self.path, body)) for name, body in bodies.items()}
        return {**cases, "missing field": MalformedRequest(Request(self.path, b'{"params": {"max_length": "many"}}'))}

    def read_id(self, body: bytes) -> str:
        answer = json.loads(body)
        assert "message" not in answer, answer
        return answer["id"]

    def poll(self, job_id: str) -> Request:
        return Request(f"{STATUS}/{job_id}", method="GET")

    def cancel(self, job_id: str) -> Request:
        return Request(f"{STATUS}/{job_id}", method="DELETE")

    def read_job(self, body: bytes) -> ParsedJob:
        found = json.loads(body)
        assert "message" not in found
        text = "".join(one["text"] for one in found["generations"])
        return ParsedJob(text, "done" if found["done"] else None, found["processing"] > 0)


class HordeTransfer(HordeDialect):
    """Kudos that are given."""

    path = "/api/v2/kudos/transfer"

    def request_with_text(self, text: str) -> Request:
        return Request(self.path, json.dumps({"username": text, "amount": 1}).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        bodies = {
            "unreadable": b'{"username": {Ada}',
            "wrong type": b'{"username": 7, "amount": 1}',
            "missing field": b'{"username": "ada#1"}',
            "no amount": b'{"username": "ada#1", "amount": 0}',
        }
        return {name: MalformedRequest(Request(self.path, body)) for name, body in bodies.items()}


class HordePop(HordeDialect):
    """Work that a volunteer asks for."""

    path = "/api/v2/generate/text/pop"

    def request_with_text(self, text: str) -> Request:
        return Request(self.path, json.dumps({"name": text, "models": ["owl"]}).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        bodies = {
            "unreadable": b'{"name": {barn}',
            "wrong type": b'{"name": "barn", "models": 7}',
            "missing field": b'{"models": ["owl"]}',
            "out of range": b'{"name": "barn", "models": ["owl"], "threads": 51}',
        }
        return {name: MalformedRequest(Request(self.path, body)) for name, body in bodies.items()}


class HordeSubmit(HordeDialect):
    """A text that a volunteer hands in."""

    path = "/api/v2/generate/text/submit"

    def request_with_text(self, text: str) -> Request:
        return Request(self.path, json.dumps({"id": "of-nobody", "generation": text}).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        bodies = {
            "unreadable": b'{"id": {1}',
            "wrong type": b'{"id": "1", "generation": 7}',
            "missing field": b'{"generation": "Hoo."}',
            "unknown state": b'{"id": "1", "generation": "Hoo.", "state": "lost"}',
            "remark without a value": b'{"id": "1", "generation": "Hoo.", "gen_metadata": [{"type": "x"}]}',
        }
        return {name: MalformedRequest(Request(self.path, body)) for name, body in bodies.items()}


class HordeProgress(HordeDialect):
    """A text of which a volunteer tells while it writes."""

    path = "/api/v2/generate/text/progress"

    def request_with_text(self, text: str) -> Request:
        return Request(self.path, json.dumps({"id": "of-nobody", "text": text}).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        bodies = {
            "unreadable": b'{"id": {1}',
            "wrong type": b'{"id": "1", "text": 7}',
            "missing field": b'{"text": "Hoo."}',
        }
        return {name: MalformedRequest(Request(self.path, body)) for name, body in bodies.items()}


class TestErrors(ErrorSuite[HordeText]):
    dialect = HordeText()


class TestTransfer(RequestSuite[HordeTransfer]):
    dialect = HordeTransfer()


class TestPop(RequestSuite[HordePop]):
    dialect = HordePop()


class TestSubmit(RequestSuite[HordeSubmit]):
    dialect = HordeSubmit()


class TestProgress(RequestSuite[HordeProgress]):
    dialect = HordeProgress()


class TestTexts(PolledSuite):
    dialect = HordeText()

    @pytest.fixture(autouse=True)
    def _frames(self, deployment: Deployment) -> None:
        self.frames = lambda: deployment.messages_in("OUT")

    async def under_way(self, client: Client, job_id: str) -> ParsedJob:
        """Text is only shown whole, so the frames on the bus tell how much of it there is."""
        before = await asyncio.to_thread(self.frames)
        seen = await self.reaches(client, job_id, lambda seen: seen.running)
        await eventually(lambda: self.frames() > before + WORDS, 30, "some of the text is written")
        return seen

    async def check_job_failed(self, client: Client, job_id: str, code: ErrorCode) -> None:
        """A job that failed is no error of the question for it."""
        del code
        answer = await client.ask(self.dialect.poll(job_id))
        found = json.loads(answer.body)
        assert (answer.status, found["done"], found["faulted"], found["generations"]) == (200, True, True, [])

    async def test_several_replies_are_charged_once_each(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(5))
        asked = {"prompt": "Hello.", "models": [CHAT_MODEL], "params": {"n": 3, "max_length": 40}}
        answer = await client.ask(Request(SUBMIT, json.dumps(asked).encode()))
        seen = await self.ended(client, self.dialect.read_id(answer.body))
        assert seen.text == script_text(5) * 3
        events = await tenant.usage(3)
        assert [event.work.completion_tokens for event in events] == [5, 5, 5]

    async def test_prompt_and_reply_are_not_readable_in_the_store(
        self, client: Client, tenant: Tenant, chat_engine: StubChat, deployment: Deployment
    ) -> None:
        """What the bus has on disk is encrypted, and no message of it is kept longer than 20 minutes."""
        secret = "the owl's own secret"
        chat_engine.plays(Script(reply=[secret], token_delay_s=0.0))
        job_id = await self.submitted(client, text=secret, model=NARROW)
        await self.ended(client, job_id)
        await tenant.usage(1)
        kept = await deployment.read(RESULT)
        assert len({one.subject.partition(".")[0] for one in kept} & {"name", "ticket", "result"}) == 3
        assert not any(secret.encode() in one.data or job_id.encode() in one.data for one in kept)


@pytest.mark.e2e
@pytest.mark.timeout(400)
class TestClients:
    """The sessions of the Horde's clients: order, rhythm, and how they take failures."""

    @pytest.fixture
    def url(self, deployment: Deployment) -> str:
        return deployment.root_url()

    async def test_command_line_client(
        self, url: str, session: aiohttp.ClientSession, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        """AI-Horde-CLI: one request, polls every 0.8 s without headers, and one more after `done`."""
        chat_engine.plays(numbered(30, delay_s=0.05))
        headers = {"apikey": tenant.key, "Client-Agent": "cli_request_scribe.py:1.1.0:(discord)db0#1625"}
        params = {"n": 1, "max_context_length": 1024, "max_length": 40}
        asked = {"prompt": "An owl", "trusted_workers": False, "models": [], "params": params}
        tried, _body = await _json(session, "POST", url + SUBMIT, {**asked, "dry_run": True}, headers)
        assert (tried, list(_body)) == (200, ["kudos"])
        status, answer = await _json(session, "POST", url + SUBMIT, asked, headers)
        assert status == 202
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                status, seen = await _json(session, "GET", f"{url}{STATUS}/{answer['id']}")
                assert status == 200
                if seen["done"]:
                    break
                await asyncio.sleep(HCLI_POLL_S)
        _status, last = await _json(session, "GET", f"{url}{STATUS}/{answer['id']}")
        assert last["faulted"] is False
        assert [one["text"] for one in last["generations"]] == [script_text(30)]
        assert len(last["generations"][0]["text"]) > 0
        await tenant.usage(1)

    async def test_command_line_client_that_is_interrupted(
        self, url: str, session: aiohttp.ClientSession, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(200, delay_s=0.05))
        asked = {"prompt": "An owl", "params": {"max_length": 250, "max_context_length": 1024}}
        _status, answer = await _json(session, "POST", url + SUBMIT, asked, {"apikey": tenant.key})
        await eventually(lambda: chat_engine.active == 1, 20, "the job runs")
        status, seen = await _json(session, "DELETE", f"{url}{STATUS}/{answer['id']}")
        assert (status, "message" in seen, seen["faulted"]) == (200, False, False)
        (event,) = await tenant.usage(1)
        assert event.outcome == "cancelled"

    async def test_lite_in_horde_mode(
        self, url: str, session: aiohttp.ClientSession, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        """KoboldAI Lite: panel, preflight, request with placeholders, polls on every third tick, one more after."""
        chat_engine.plays(numbered(10, delay_s=0.05))
        _status, load = await _json(session, "GET", f"{url}/api/v2/status/performance")
        assert {"queued_text_requests", "text_worker_count", "queued_tokens", "past_minute_tokens"} <= set(load)
        _status, user = await _json(session, "GET", f"{url}/api/v2/find_user", None, {"apikey": tenant.key})
        assert user["username"].startswith("tenant#")
        _status, models = await _json(session, "GET", f"{url}/api/v2/status/models?type=text")
        _status, workers = await _json(session, "GET", f"{url}/api/v2/workers?type=text")
        worker = next(one for one in workers if CHAT_MODEL in one["models"])
        assert worker["performance"].endswith(" tokens per second")
        assert CHAT_MODEL in [one["name"] for one in models]
        headers = {"apikey": tenant.key, "Client-Agent": "KoboldAiLite:17"}
        wanted = {
            "Origin": "https://lite.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "apikey,client-agent,content-type",
        }
        async with session.options(url + SUBMIT, headers=wanted) as preflight:
            assert preflight.status == 200
        params = {
            "n": 1, "max_context_length": min(4096, worker["max_context_length"]), "max_length": 200, "rep_pen": 1.07,
            "temperature": 0.7, "top_p": 0.92, "top_k": 100, "top_a": 0, "typical": 1, "tfs": 1, "rep_pen_range": 360,
            "rep_pen_slope": 0.7, "sampler_order": [6, 0, 1, 3, 4, 2, 5], "min_p": 0, "dynatemp_range": 0,
            "dynatemp_exponent": 1, "smoothing_factor": 0, "stop_sequence": ["{{[INPUT]}}", "{{[OUTPUT]}}"],
            "use_default_badwordsids": False,
        }  # fmt: skip
        asked = {
            "prompt": "{{[INPUT]}}Hello.{{[OUTPUT]}}", "params": params, "models": [CHAT_MODEL],
            "workers": [worker["id"]],
        }  # fmt: skip
        status, answer = await _json(session, "POST", url + SUBMIT, asked, headers)
        assert (status, bool(answer["id"])) == (202, True)
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                await asyncio.sleep(3 * LITE_TICK_S)
                _status, seen = await _json(session, "GET", f"{url}{STATUS}/{answer['id']}")
                # Lite takes any message for a failure, and gives up where nobody can serve it.
                assert seen.get("message") is None
                assert seen["is_possible"] is True
                if seen["done"]:
                    break
        await asyncio.sleep(LITE_TICK_S)
        _status, last = await _json(session, "GET", f"{url}{STATUS}/{answer['id']}")
        assert last["generations"][0]["text"] == script_text(10)
        assert "{{[" not in json.dumps(chat_engine.calls)
        await tenant.usage(1)

    async def test_text_costs_what_was_written_and_no_more_than_was_told(
        self, url: str, session: aiohttp.ClientSession, tenant: Tenant, chat_engine: StubChat, deployment: Deployment
    ) -> None:
        """Kudos are held with the texts, settled by them, and given back by one that fails; verified in the end."""
        key = {"apikey": tenant.key}
        params = {"n": 2, "max_length": 40, "max_context_length": 1024}
        asked = {"prompt": "An owl", "models": [CHAT_MODEL], "params": params, "slow_workers": False}
        status, refused = await _json(session, "POST", url + SUBMIT, asked, key)
        assert (status, refused["rc"]) == (403, "KudosUpfront")
        await tenant.assert_no_usage()
        await asyncio.to_thread(deployment.command, "kudos", "earn", tenant.id, "100")

        async def ended() -> dict[str, Any]:
            status, answer = await _json(session, "POST", url + SUBMIT, asked, key)
            assert (status, answer["kudos"]) == (202, price["kudos"])
            async with asyncio.timeout(TIMEOUT_S):
                while not (seen := (await _json(session, "GET", f"{url}{STATUS}/{answer['id']}"))[1])["done"]:
                    await asyncio.sleep(0.05)
            return seen

        async def balance_is(kudos: float) -> None:
            async with asyncio.timeout(TIMEOUT_S):
                while (await _json(session, "GET", f"{url}/api/v2/find_user", None, key))[1]["kudos"] != kudos:
                    await asyncio.sleep(0.05)

        _status, price = await _json(session, "POST", url + SUBMIT, {**asked, "dry_run": True}, key)
        chat_engine.plays(Script(reply=["a", " text"], token_delay_s=0.0))
        seen = await ended()
        assert len(seen["generations"]) == 2
        # Three fees, and two short texts.
        assert 3 < seen["kudos"] < price["kudos"] / 2
        await balance_is(round(100 - seen["kudos"], 3))
        chat_engine.plays(Script(fail_status=400, fail_times=9))
        failed = await ended()
        assert (failed["faulted"], failed["kudos"]) == (True, 0)
        await balance_is(round(100 - seen["kudos"], 3))
        await asyncio.to_thread(deployment.command, "kudos", "verify")

    async def test_account_gives_kudos_to_another(
        self, url: str, session: aiohttp.ClientSession, tenant: Tenant, deployment: Deployment
    ) -> None:
        receiver = await new_tenant(deployment, session)
        await asyncio.to_thread(deployment.command, "kudos", "earn", tenant.id, "30")
        _status, other = await _json(session, "GET", f"{url}/api/v2/find_user", None, {"apikey": receiver.key})
        given = {"username": other["username"], "amount": 20}
        key = {"apikey": tenant.key}
        assert await _json(session, "POST", f"{url}/api/v2/kudos/transfer", given, key) == (200, {"transferred": 20})
        status, refused = await _json(session, "POST", f"{url}/api/v2/kudos/transfer", given, key)
        assert (status, refused["rc"]) == (400, "KudosTransferNotEnough")
        _status, own = await _json(session, "GET", f"{url}/api/v2/find_user", None, key)
        assert own["kudos"] == 10
        await asyncio.to_thread(deployment.command, "kudos", "verify")


async def _json(
    session: aiohttp.ClientSession, method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    async with session.request(method, url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()
