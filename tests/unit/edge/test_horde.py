"""The AI Horde's protocol for those who ask for text, over the fakes."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.accounts import key_digest
from callboard_contracts.chat import ChatEnd, ChatFrame, ChatJob, ChatResult
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.kudos import KUDOS_SCALE
from callboard_contracts.workers import OfferedModel, PoolRecord, Throughput, WorkerInfo
from callboard_edge.domain import job_groups, kept_jobs
from callboard_edge.domain.ports import QueueDepth
from callboard_edge.protocols.horde.pools import worker_id
from tests.unit.edge.harness import USAGE, EdgeHarness, frames, running

pytestmark = pytest.mark.unit

NO_LIMITS = {"horde": {"submits_per_s": 0, "submits_per_minute": 0, "polls_per_minute": 0, "others_per_minute": 0}}
SUBMIT = "/api/v2/generate/text/async"
STATUS = "/api/v2/generate/text/status"
ANONYMOUS = {"apikey": "0000000000"}
ACCOUNT, OTHER = "k_0000000000000007", "k_00000000000000ff"
KEY = {"apikey": "cb_ada"}
OFFERED = OfferedModel(
    name="owl",
    abilities=("completion",),
    sampling=("temperature", "stop"),
    throughput=Throughput(tokens_per_s=4.0, tokens_per_reply=40.0, tokens_last_minute=90),
)


@pytest.fixture
async def edge(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[EdgeHarness]:
    monkeypatch.setattr(kept_jobs, "CANCEL_WAIT_S", 0.05)
    monkeypatch.setattr(kept_jobs, "CANCEL_POLL_S", 0.01)
    monkeypatch.setattr(job_groups, "END_WAIT_S", 0.2)
    async with running(NO_LIMITS) as one:
        one.known.announce(
            WorkerInfo(id="w", service="chat", pool="main", backend="fake", models=(OFFERED,), slots=2, at=0)
        )
        one.known.record("chat", "main", PoolRecord(last_started_at=0.0))
        one.quota.accounts[key_digest("cb_ada")] = ACCOUNT
        one.quota.balances = {ACCOUNT: 50 * KUDOS_SCALE, OTHER: 0}
        yield one


def body(**over: Any) -> dict[str, Any]:
    """A request for text, as the Horde's command line sends it."""
    params = {"n": 1, "max_length": 40, "max_context_length": 1024, **over.pop("params", {})}
    return {"prompt": "An owl", "trusted_workers": False, "models": [], "params": params, **over}


async def ask(edge: EdgeHarness, method: str, path: str, json: Any = None, **headers: str) -> tuple[int, Any]:
    """Asks, and returns the status and the JSON of the answer."""
    async with edge.session.request(method, edge.url + path, json=json, headers=headers) as answer:
        return answer.status, await answer.json()


async def submitted(edge: EdgeHarness, **over: Any) -> str:
    """The id of a request that is accepted."""
    status, answer = await ask(edge, "POST", SUBMIT, body(**over), **ANONYMOUS)
    assert status == 202, answer
    return answer["id"]


async def state(edge: EdgeHarness, request_id: str) -> dict[str, Any]:
    """A request as it stands."""
    status, answer = await ask(edge, "GET", f"{STATUS}/{request_id}")
    assert status == 200, answer
    return answer


def finish(edge: EdgeHarness, job: ChatJob, text: str, **end: Any) -> None:
    """Keeps the result of a job, as a worker does."""
    told = ChatEnd.model_validate({"reason": "stop", "usage": USAGE, **end})
    edge.replies.results[job.request_id] = ChatResult(request_id=job.request_id, model="owl", text=text, end=told)
    edge.jobs.finish(job.request_id)


async def test_request_is_a_job_that_is_polled_and_shows_every_field_of_the_contract(edge: EdgeHarness) -> None:
    edge.jobs.depths = {"batch": QueueDepth(1, 0)}
    request_id = await submitted(edge)
    assert str(uuid.UUID(request_id)) == request_id
    job = await edge.jobs.next_chat()
    assert edge.jobs.classes == ["batch"]
    request = job.request
    assert (request.mode, request.model, request.prompt, request.overflow) == (
        "completion",
        "owl",
        "An owl",
        "drop_front",
    )
    assert (request.max_output_tokens, request.context_tokens) == (40, 1024)
    waits = await state(edge, request_id)
    assert waits == {
        "finished": 0,
        "processing": 0,
        "restarted": 0,
        "waiting": 1,
        "done": False,
        "faulted": False,
        "wait_time": 20,
        "queue_position": 1,
        "kudos": 0,
        "is_possible": True,
        "generations": [],
    }
    for frame in frames("a ", "b ", end=None):
        edge.replies.send(job.request_id, frame.model_copy(update={"restarts": 1}))
    runs = await state(edge, request_id)
    assert runs["restarted"] == 1
    assert (runs["processing"], runs["waiting"], runs["queue_position"], runs["wait_time"]) == (1, 0, 0, 10)
    finish(edge, job, " sat in the oak.", restarts=2)
    done = await state(edge, request_id)
    assert done["restarted"] == 2
    assert (done["finished"], done["done"], done["faulted"], done["wait_time"]) == (1, True, False, 0)
    assert done["generations"] == [
        {
            "text": " sat in the oak.",
            "seed": 0,
            "worker_id": worker_id("main"),
            "worker_name": "main",
            "model": "owl",
            "state": "ok",
            "gen_metadata": [],
        }
    ]
    assert await state(edge, request_id) == done


async def test_text_that_is_begun_again_is_told_before_it_says_anything(edge: EdgeHarness) -> None:
    edge.jobs.depths = {"batch": QueueDepth(1, 0)}
    request_id = await submitted(edge)
    job = await edge.jobs.next_chat()
    edge.replies.send(job.request_id, ChatFrame(seq=0, attempt=1, restarts=1, silent=True))
    seen = await state(edge, request_id)
    assert (seen["restarted"], seen["waiting"], seen["processing"], seen["queue_position"]) == (1, 1, 0, 1)
    edge.replies.send(job.request_id, ChatFrame(seq=1, attempt=1, text="Hoo.", tokens=1, restarts=1))
    seen = await state(edge, request_id)
    assert (seen["restarted"], seen["waiting"], seen["processing"]) == (1, 0, 1)


async def test_job_that_a_worker_was_given_is_processed_before_its_first_word(edge: EdgeHarness) -> None:
    request_id = await submitted(edge)
    edge.jobs.depths = {"batch": QueueDepth(0, 1)}
    seen = await state(edge, request_id)
    assert (seen["processing"], seen["waiting"], seen["queue_position"]) == (1, 0, 0)


async def test_several_replies_are_several_jobs_charged_once_each(edge: EdgeHarness) -> None:
    request_id = await submitted(edge, params={"n": 3})
    jobs = [await edge.jobs.next_chat() for _ in range(3)]
    assert len({job.request_id for job in jobs}) == len(edge.quota.asked) == 3
    finish(edge, jobs[0], "one")
    finish(edge, jobs[2], "three")
    seen = await state(edge, request_id)
    assert (seen["finished"], seen["waiting"] + seen["processing"], seen["done"]) == (2, 1, False)
    finish(edge, jobs[1], "two")
    seen = await state(edge, request_id)
    assert (seen["finished"], seen["done"]) == (3, True)
    assert [one["text"] for one in seen["generations"]] == ["one", "two", "three"]


async def test_replies_that_do_not_all_fit_the_queue_are_all_refused() -> None:
    async with running(NO_LIMITS, most_queued=2) as edge:
        status, answer = await ask(edge, "POST", SUBMIT, body(params={"n": 3}), **ANONYMOUS)
        assert (status, answer["rc"]) == (429, "TooManyPrompts")
        assert edge.jobs.queued == 0
        assert edge.quota.held == {}


async def test_requester_who_leaves_before_the_id_came_leaves_no_job(edge: EdgeHarness) -> None:
    edge.quota.delay_s = 0.1
    asking = asyncio.ensure_future(ask(edge, "POST", SUBMIT, body(params={"n": 2}), **ANONYMOUS))
    async with asyncio.timeout(20):
        while not edge.quota.asked:
            await asyncio.sleep(0.01)
        asking.cancel()
        while len(edge.quota.released) < 2:
            await asyncio.sleep(0.01)
    assert edge.jobs.queued == 0


async def test_result_is_read_for_as_long_as_it_is_kept_after_its_ticket_is_gone(edge: EdgeHarness) -> None:
    request_id = await submitted(edge)
    job = await edge.jobs.next_chat()
    finish(edge, job, "late")
    edge.results.tickets.clear()
    done = await state(edge, request_id)
    assert [one["text"] for one in done["generations"]] == ["late"]
    edge.replies.results.clear()
    status, answer = await ask(edge, "GET", f"{STATUS}/{request_id}")
    assert (status, answer["rc"]) == (404, "RequestNotFound")


async def test_cancelled_request_gives_what_was_written(edge: EdgeHarness) -> None:
    request_id = await submitted(edge, params={"n": 2})
    first, _second = await edge.jobs.next_chat(), await edge.jobs.next_chat()
    finish(edge, first, "half a", reason="cancelled")
    status, answer = await ask(edge, "DELETE", f"{STATUS}/{request_id}")
    assert status == 200
    assert (answer["done"], answer["faulted"], answer["finished"]) == (True, False, 1)
    assert [one["text"] for one in answer["generations"]] == ["half a"]
    assert len(edge.quota.released) == 1
    assert "message" not in answer
    assert await state(edge, request_id) == answer


async def test_job_that_failed_faults_the_request_without_a_message(edge: EdgeHarness) -> None:
    request_id = await submitted(edge)
    error = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")
    finish(edge, await edge.jobs.next_chat(), "", reason="error", error=error)
    seen = await state(edge, request_id)
    assert (seen["done"], seen["faulted"], seen["finished"], seen["generations"]) == (True, True, 0, [])
    assert "message" not in seen


async def test_stop_sequence_is_shown_only_where_the_requester_knows_it(edge: EdgeHarness) -> None:
    request_id = await submitted(edge, params={"stop_sequence": ["\nAda:"]})
    finish(edge, await edge.jobs.next_chat(), "Hello.", stop_sequence="\nAda:")
    assert (await state(edge, request_id))["generations"][0]["text"] == "Hello.\nAda:"
    tagged = await submitted(edge, prompt="{{[INPUT]}}Hi{{[OUTPUT]}}", params={"stop_sequence": ["{{[INPUT]}}"]})
    job = await edge.jobs.next_chat()
    assert job.request.turn_tags
    finish(edge, job, "Hello.", stop_sequence="<|im_start|>user")
    assert (await state(edge, tagged))["generations"][0]["text"] == "Hello."


@pytest.mark.parametrize(
    ("over", "status", "rc", "field"),
    [
        ({"prompt": ""}, 400, "MissingPrompt", "prompt"),
        ({"prompt": None}, 400, "MissingPrompt", "prompt"),
        ({"prompt": 7}, 400, "BadRequest", "prompt"),
        ({"params": {"n": 0}}, 400, "BadRequest", "params.n"),
        ({"params": {"n": 21}}, 400, "BadRequest", "params.n"),
        ({"params": {"max_length": 8}}, 400, "BadRequest", "params.max_length"),
        ({"params": {"temperature": 5.1}}, 400, "BadRequest", "params.temperature"),
        ({"params": {"rep_pen": 0.5}}, 400, "BadRequest", "params.rep_pen"),
        ({"params": {"max_length": 2000}}, 400, "TokenOverflow", "params.max_length"),
        ({"params": {"sampler_order": [6, 0, 1]}}, 400, "MissingFullSamplerOrder", "params.sampler_order"),
        ({"params": {"stop_sequence": ["x"] * 129}}, 400, "TooManyStopSequences", "params.stop_sequence"),
        ({"params": {"stop_sequence": ["x" * 2001]}}, 400, "ExcessiveStopSequence", "params.stop_sequence"),
        ({"webhook": "https://example.org/hook"}, 400, "BadRequest", "webhook"),
        ({"softprompt": "night"}, 400, "BadRequest", "softprompt"),
        ({"extra_source_images": [{}]}, 400, "InvalidExtraSourceImages", "extra_source_images"),
        ({"proxied_account": "x"}, 403, "OnlyServiceAccountProxy", "proxied_account"),
        ({"style": "x"}, 404, "StyleNotFound", "style"),
        ({"models": ["dodo"]}, 400, "UnsupportedModel", "model"),
        ({"workers": ["cccccccc-0000-4000-8000-000000000003"]}, 404, "WorkerNotFound", "workers"),
        ({"workers": [worker_id("main")], "worker_blacklist": True}, 400, "NoValidWorkers", "workers"),
    ],
)
async def test_request_that_cannot_be_served_is_refused_with_its_field(
    over: dict[str, Any], status: int, rc: str, field: str, edge: EdgeHarness
) -> None:
    seen, answer = await ask(edge, "POST", SUBMIT, body(**over), **ANONYMOUS)
    assert (seen, answer["rc"], list(answer["errors"])) == (status, rc, [field])
    assert answer["message"]
    assert edge.quota.asked == []


async def test_null_fields_and_fields_of_later_clients_are_ignored(edge: EdgeHarness) -> None:
    given = {"max_length": None, "max_context_length": None, "top_p": None, "xtc_threshold": 0.1, "novel": {"a": 1}}
    await submitted(edge, params=given, workers=None, nsfw=None, novel=True)
    request = (await edge.jobs.next_chat()).request
    assert (request.max_output_tokens, request.context_tokens) == (80, 2048)


async def test_lengths_beyond_the_model_are_reduced_with_a_warning(edge: EdgeHarness) -> None:
    over = body(models=["wren/tiny"], params={"max_length": 512, "max_context_length": 4096})
    status, answer = await ask(edge, "POST", SUBMIT, over, **ANONYMOUS)
    assert status == 202
    assert [one["code"] for one in answer["warnings"]] == ["LengthsReduced"]
    assert (await edge.jobs.next_chat()).request.context_tokens == 128


async def test_models_and_workers_that_are_asked_for_decide_who_writes(edge: EdgeHarness) -> None:
    for over in ({"models": ["dodo", "owl"]}, {"models": ["koboldcpp/owl"]}, {"workers": [worker_id("main")]}):
        await submitted(edge, **over, trusted_workers=True, validated_backends=True, slow_workers=False)
        assert (await edge.jobs.next_chat()).request.model == "owl"


async def test_dry_run_tells_the_price_and_asks_for_nothing(edge: EdgeHarness) -> None:
    status, answer = await ask(edge, "POST", SUBMIT, body(dry_run=True), **ANONYMOUS)
    assert (status, answer) == (200, {"kudos": 0})
    assert (edge.quota.asked, edge.jobs.queued) == ([], 0)


@pytest.mark.parametrize(
    ("headers", "status", "rc"),
    [
        ({}, 400, "BadRequest"),
        ({"apikey": "an-unknown-key"}, 401, "InvalidAPIKey"),
        ({"apikey": "cccccccc-0000-4000-8000-000000000003"}, 403, "SharedKeyExpired"),
    ],
)
async def test_key_that_opens_nothing_is_refused(
    headers: dict[str, str], status: int, rc: str, edge: EdgeHarness
) -> None:
    seen, answer = await ask(edge, "POST", SUBMIT, body(), **headers)
    assert (seen, answer["rc"]) == (status, rc)
    assert edge.quota.asked == []
    # Who asks how a request stands sends no key.
    assert (await ask(edge, "GET", f"{STATUS}/x"))[0] == 404


async def test_site_that_requires_keys_refuses_the_anonymous_one() -> None:
    async with running({"quota": {"require_key": True}}) as edge:
        edge.quota.require_key = True
        status, answer = await ask(edge, "POST", SUBMIT, body(), **ANONYMOUS)
        assert (status, answer["rc"]) == (401, "InvalidAPIKey")


async def test_browsers_of_other_origins_may_ask(edge: EdgeHarness) -> None:
    wanted = {
        "Origin": "https://lite.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "apikey,client-agent,content-type",
    }
    async with edge.session.options(edge.url + SUBMIT, headers=wanted) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Allow-Headers"] == "apikey,client-agent,content-type"
    async with edge.session.get(f"{edge.url}{STATUS}/x") as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Horde-Node"] == "callboard"
    async with edge.session.get(f"{edge.url}/api/v2/status/heartbeat") as answer:
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_rates_are_limited_as_the_horde_does() -> None:
    limits = {"submits_per_s": 0, "submits_per_minute": 2, "polls_per_minute": 3, "others_per_minute": 1}
    async with running({"horde": limits}) as edge:
        seen = [(await ask(edge, "POST", SUBMIT, body(dry_run=True), **ANONYMOUS))[0] for _ in range(3)]
        assert seen[:2] == [200, 200]
        async with edge.session.post(edge.url + SUBMIT, json=body(), headers=ANONYMOUS) as answer:
            told = await answer.json()
            assert (answer.status, told["message"], told["rc"]) == (429, "2 per 1 minute", "TooManyPrompts")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        # Each request has a count of its own.
        seen = [(await ask(edge, "GET", f"{STATUS}/{one}"))[0] for one in ("a", "a", "b", "a", "a", "b")]
        assert seen == [404, 404, 404, 404, 429, 404]
        assert (await ask(edge, "GET", "/api/v2/status/performance"))[0] == 200
        assert (await ask(edge, "GET", "/api/v2/workers"))[0] == 429


async def test_site_says_what_its_workers_announce(edge: EdgeHarness) -> None:
    edge.jobs.depths = {"batch": QueueDepth(3, 0), "live": QueueDepth(1, 0)}
    _status, models = await ask(edge, "GET", "/api/v2/status/models?type=text")
    owl = models[0]
    assert owl == {
        "name": "owl", "count": 1, "performance": 4.0, "queued": 160, "jobs": 4, "eta": 20, "type": "text",
    }  # fmt: skip
    assert await ask(edge, "GET", "/api/v2/status/models") == (200, [])
    _status, load = await ask(edge, "GET", "/api/v2/status/performance")
    assert (load["queued_text_requests"], load["text_worker_count"], load["text_thread_count"]) == (4, 1, 2)
    assert (load["queued_tokens"], load["past_minute_tokens"]) == (160, 90)
    assert (await ask(edge, "GET", "/api/v2/status/heartbeat"))[1]["message"] == "OK"
    _status, workers = await ask(edge, "GET", "/api/v2/workers?type=text")
    (worker,) = workers
    assert (worker["name"], worker["id"], worker["online"]) == ("main", worker_id("main"), True)
    assert worker["performance"] == "4.0 tokens per second"
    assert worker["models"] == ["owl", "wren/tiny"]
    assert (worker["max_length"], worker["max_context_length"], worker["threads"]) == (1024, 4096, 2)
    uptime_s = worker["uptime"]
    status, again = await ask(edge, "GET", f"/api/v2/workers/{worker['id']}")
    assert (status, {**again, "uptime": uptime_s}) == (200, worker)
    assert again["uptime"] >= uptime_s > 0
    assert await ask(edge, "GET", "/api/v2/workers?type=image") == (200, [])


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "rc"),
    [
        ("GET", "nobody", {}, 404, "WorkerNotFound"),
        ("PUT", "nobody", KEY, 404, "WorkerNotFound"),
        ("PUT", worker_id("main"), {}, 400, "BadRequest"),
        ("PUT", worker_id("main"), ANONYMOUS, 403, "AnonForbidden"),
        ("PUT", worker_id("main"), KEY, 403, "NotOwner"),
        ("DELETE", worker_id("main"), KEY, 403, "NotOwner"),
        ("DELETE", worker_id("main"), {"apikey": "wrong"}, 401, "InvalidAPIKey"),
    ],
)
async def test_workers_of_the_site_are_changed_by_nobody(
    method: str, path: str, headers: dict[str, str], status: int, rc: str, edge: EdgeHarness
) -> None:
    sent = {"maintenance": True} if method == "PUT" else None
    seen, answer = await ask(edge, method, f"/api/v2/workers/{path}", sent, **headers)
    assert (seen, answer["rc"]) == (status, rc)


async def test_users_are_accounts_and_see_only_their_own_kudos(edge: EdgeHarness) -> None:
    assert (await ask(edge, "GET", "/api/v2/find_user"))[0] == 401
    status, answer = await ask(edge, "GET", "/api/v2/find_user", apikey="an-unknown-key")
    assert (status, answer["rc"]) == (404, "UserNotFound")
    _status, own = await ask(edge, "GET", "/api/v2/find_user", **KEY)
    assert (own["username"], own["id"], own["kudos"], own["worker_ids"]) == ("ada#7", 7, 50, [])
    assert await ask(edge, "GET", "/api/v2/users/7", **KEY) == (200, own)
    _status, other = await ask(edge, "GET", "/api/v2/users/255", **KEY)
    assert other["username"] == "ada#255"
    assert "kudos" not in other
    assert await ask(edge, "GET", "/api/v2/users/255") == (200, other)
    for unknown in ("9", "x", "9" * 30):
        status, answer = await ask(edge, "GET", f"/api/v2/users/{unknown}", **KEY)
        assert (status, answer["rc"]) == (404, "UserNotFound")
    _status, nobody = await ask(edge, "GET", "/api/v2/find_user", **ANONYMOUS)
    assert (nobody["username"], nobody["id"]) == ("Anonymous#0", 0)


async def test_kudos_are_given_once_for_each_key_of_a_request(edge: EdgeHarness) -> None:
    given = {"username": "ada#255", "amount": 20}
    for _ in range(2):
        again = {**KEY, "Idempotency-Key": "gift"}
        assert await ask(edge, "POST", "/api/v2/kudos/transfer", given, **again) == (200, {"transferred": 20})
    assert edge.quota.balances == {ACCOUNT: 30 * KUDOS_SCALE, OTHER: 20 * KUDOS_SCALE}
    assert (await ask(edge, "POST", "/api/v2/kudos/transfer", given, **KEY))[0] == 200
    assert edge.quota.balances[ACCOUNT] == 10 * KUDOS_SCALE


@pytest.mark.parametrize(
    ("username", "amount", "headers", "status", "rc"),
    [
        ("ada#255", 51, KEY, 400, "KudosTransferNotEnough"),
        ("ada#255", 0, KEY, 400, "BadRequest"),
        ("ada#255", -5, KEY, 400, "BadRequest"),
        ("ada#255", 1.5, KEY, 400, "BadRequest"),
        ("ada#255", True, KEY, 400, "BadRequest"),
        ("ada#255", 10**30, KEY, 400, "BadRequest"),
        ("ada#255", None, KEY, 400, "BadRequest"),
        ("ada#7", 5, KEY, 400, "KudosTransferToSelf"),
        ("Anonymous#0", 5, KEY, 400, "KudosTransferToAnon"),
        ("eve#255", 5, KEY, 404, "UserNotFound"),
        ("ada#9", 5, KEY, 404, "UserNotFound"),
        ("ada", 5, KEY, 404, "UserNotFound"),
        ("ada#255", 5, ANONYMOUS, 400, "KudosTransferFromAnon"),
        ("ada#255", 5, {}, 400, "BadRequest"),
    ],
)
async def test_kudos_that_cannot_be_given_stay(
    username: str, amount: float | None, headers: dict[str, str], status: int, rc: str, edge: EdgeHarness
) -> None:
    sent = {"username": username, "amount": amount}
    seen, answer = await ask(edge, "POST", "/api/v2/kudos/transfer", sent, **headers)
    assert (seen, answer["rc"]) == (status, rc)
    assert edge.quota.balances == {ACCOUNT: 50 * KUDOS_SCALE, OTHER: 0}


async def test_shared_keys_are_refused_clearly(edge: EdgeHarness) -> None:
    for method, path in (("PUT", "/api/v2/sharedkeys"), ("GET", "/api/v2/sharedkeys/x")):
        status, answer = await ask(edge, method, path)
        assert (status, answer["rc"]) == (403, "Forbidden")
        assert "Shared keys are not offered" in answer["message"]
