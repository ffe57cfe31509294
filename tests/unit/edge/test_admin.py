"""The admin API: who gets in, what it does to accounts, and what it tells of usage."""

import asyncio
import csv
import importlib
import io
import json
import logging
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest

from callboard_contracts.accounts import key_digest
from callboard_contracts.config import Config, LimitsSection, QuotaSection, TierSection
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import AuditEvent, VerifyReply
from callboard_edge.app import administration
from callboard_edge.protocols.admin.bodies import LimitsBody
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.connection import Connection
from callboard_kit.lifecycle import StartError
from tests.unit.edge.admin_harness import TOKEN, AdminHarness, Operator, event_row
from tests.unit.edge.harness import running

pytestmark = pytest.mark.unit

ROUTES = [
    ("GET", "/accounts", None),
    ("POST", "/accounts", {"name": "ann"}),
    ("GET", "/accounts/ann", None),
    ("PATCH", "/accounts/ann", {"tier": "standard"}),
    ("POST", "/accounts/ann/rotate", None),
    ("POST", "/keys/revoke", {"who": "ann"}),
    ("GET", "/usage", None),
    ("GET", "/usage/export", None),
    ("POST", "/usage/verify", None),
    ("GET", "/audit/r1", None),
    ("GET", "/accounts/ann/kudos", None),
    ("POST", "/accounts/ann/kudos", {"amount": 1}),
    ("POST", "/accounts/ann/kudos/transfer", {"to": "bob", "amount": 1}),
    ("GET", "/accounts/ann/kudos/history", None),
    ("GET", "/kudos/leaders", None),
    ("GET", "/kudos/workers/w1/history", None),
    *(("GET", f"/rooms{path}", None) for path in ("", "/r1", "/r1/export")),
    ("DELETE", "/rooms/r1", None),
    *(("GET", f"/characters{path}", None) for path in ("", "/mira", "/mira/export")),
    ("POST", "/characters", {"name": "mira"}),
    ("PUT", "/characters/mira", {}),
    *(("DELETE", f"/characters/mira{path}", None) for path in ("", "/memory")),
]


@pytest.fixture
def admin_harness() -> AdminHarness:
    return AdminHarness(
        quota=QuotaSection(tiers={"anonymous": TierSection(), "standard": TierSection(), "big": TierSection()})
    )


@pytest.fixture
async def operator(admin_harness: AdminHarness) -> AsyncGenerator[Operator]:
    async with running(admin=admin_harness.administration()) as harness:
        yield Operator(harness, admin_harness)


async def created(operator: Operator, **body: Any) -> dict[str, Any]:
    status, _headers, answer = await operator.ask("POST", "/accounts", {"name": "ann", **body})
    assert status == 201, answer
    return json.loads(answer)


def error_of(answer: bytes) -> dict[str, Any]:
    return json.loads(answer)["error"]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_admin_api_without_a_token_in_the_configuration_does_not_exist(method: str, path: str, body: Any) -> None:
    async with running() as harness:
        status, _headers, answer = await Operator(harness, AdminHarness()).ask(method, path, body)
        assert (status, error_of(answer)["code"]) == (404, "not_found")
        async with harness.session.get(f"{harness.url}/openapi.json") as reply:
            assert "/admin" not in await reply.text()


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize("token", [None, "", "an-operators-own-long-toke", TOKEN + "n", "cb_" + "k" * 40, "é"])
async def test_missing_or_wrong_token_is_401_and_nothing_is_done(
    method: str, path: str, body: Any, token: str | None, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    status, headers, answer = await operator.ask(method, path, body, token=token)
    assert (status, error_of(answer)["code"]) == (401, "invalid_admin_token")
    assert headers["WWW-Authenticate"] == "Bearer"
    assert await operator.admin_harness.book.all() == []
    reason = "wrong" if token else "missing"
    assert operator.harness.figure("callboard_edge_admin_refusals_total", reason=reason) == 1
    if token:
        assert token not in caplog.text


async def test_keys_of_clients_never_open_it(operator: Operator) -> None:
    key = (await created(operator))["key"]
    for headers in ({"x-api-key": TOKEN}, {"apikey": TOKEN}, {"Authorization": f"Basic {TOKEN}"}, {"x-api-key": key}):
        status, _headers, _answer = await operator.ask("GET", "/accounts", token=None, **headers)
        assert status == 401
    assert (await operator.ask("GET", "/accounts", token=key))[0] == 401


async def test_refusal_is_held_back_and_a_right_token_is_not(admin_harness: AdminHarness) -> None:
    async with running(admin=admin_harness.administration(pause_s=0.3)) as harness:
        operator = Operator(harness, admin_harness)
        started = time.monotonic()
        assert (await operator.ask("GET", "/accounts", token="x"))[0] == 401
        assert time.monotonic() - started >= 0.25


def test_token_that_looks_like_an_api_key_is_no_setting() -> None:
    config = Config.model_validate({"edge": {"admin_token": "cb_" + "k" * 40}})
    with pytest.raises(StartError, match=r"edge\.admin_token"):
        administration(config, Bus(Connection()), None)


async def test_web_pages_cannot_call_it(operator: Operator) -> None:
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}
    for method in ("OPTIONS", "GET"):
        status, headers, _answer = await operator.ask(method, "/accounts", **asked)
        assert status == 200
        assert not [name for name in headers if name.lower().startswith("access-control")]


async def test_document_shows_it_under_a_tag_and_a_scheme_of_its_own(operator: Operator) -> None:
    async with operator.harness.session.get(f"{operator.harness.url}/openapi.json") as reply:
        text = await reply.text()
    document = json.loads(text)
    admin = [
        operation
        for path, methods in document["paths"].items()
        if path.startswith("/admin/v1")
        for operation in methods.values()
    ]
    assert len(admin) == len(ROUTES)
    assert all(one["tags"] == ["Admin"] and one["security"] == [{"admin": []}] for one in admin)
    assert document["components"]["securitySchemes"]["admin"]["scheme"] == "bearer"
    parameters = document["paths"]["/admin/v1/usage/export"]["get"]["parameters"]
    assert {one["name"] for one in parameters} == {"who", "since", "until", "format"}
    references = {part.partition('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    assert references <= set(document["components"]["schemas"])


def test_limits_are_those_of_a_tier() -> None:
    assert set(LimitsBody.model_fields) == set(LimitsSection.model_fields)


async def test_account_is_created_shown_listed_and_its_key_told_once(operator: Operator) -> None:
    made = await created(operator, tier="big", expires="90d", limits={"tokens_per_day": 500})
    account = made["account"]
    assert (account["tier"], account["limits"]) == ("big", {"tokens_per_day": 500})
    assert account["keys"][0]["digest"] == key_digest(made["key"])[:12]
    assert account["keys"][0]["state"] == "active"
    assert operator.admin_harness.announced == [account["id"]]
    for who in (account["id"], "ann", account["keys"][0]["digest"]):
        status, headers, answer = await operator.ask("GET", f"/accounts/{who}")
        assert (status, json.loads(answer)) == (200, account)
        assert headers["Cache-Control"] == "no-store"
        assert made["key"] not in answer.decode()
    await created(operator, name="ben")
    status, _headers, answer = await operator.ask("GET", "/accounts?limit=1")
    first = json.loads(answer)
    assert [one["name"] for one in first["accounts"]] == ["ann"]
    assert first["next"] == account["id"]
    status, _headers, answer = await operator.ask("GET", f"/accounts?limit=1&after={first['next']}")
    rest = json.loads(answer)
    assert ([one["name"] for one in rest["accounts"]], rest["next"]) == (["ben"], None)
    assert rest["accounts"][0]["tier"] == "standard"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": 7}, "name"),
        ({"name": "x", "tier": "gold"}, "tier"),
        ({"name": "x", "expires": "soon"}, "expires"),
        ({"name": "x", "expires": "1999-01-01"}, "expires"),
        ({"name": "x", "expires": "999999w"}, "expires"),
        ({"name": "x", "expire": "90d"}, "expire"),
        ({"name": "x", "limits": {"tokens_per_day": -1}}, "limits.tokens_per_day"),
        ({"name": "x", "limits": {"tokens_per_day": 1.5}}, "limits.tokens_per_day"),
        ({"name": "x", "limits": {"tokens_per_day": 10**18}}, "limits.tokens_per_day"),
        ({"name": "x", "limits": {"tokens": 5}}, "limits.tokens"),
        ([], None),
    ],
)
async def test_creation_with_a_wrong_field_is_refused_by_its_name(body: Any, param: str, operator: Operator) -> None:
    status, _headers, answer = await operator.ask("POST", "/accounts", body)
    error = error_of(answer)
    assert (status, error["code"], error["param"]) == (400, "invalid_request", param)
    assert await operator.admin_harness.book.all() == []
    if param == "tier":
        assert "anonymous, big, standard" in error["message"]


async def test_tier_and_limits_are_changed_and_given_back(operator: Operator) -> None:
    await created(operator, limits={"tokens_per_day": 500, "jobs_at_once": 2})
    body = {"tier": "big", "limits": {"tokens_per_day": None, "requests_per_minute": 9.0}}
    status, _headers, answer = await operator.ask("PATCH", "/accounts/ann", body)
    changed = json.loads(answer)
    assert status == 200
    assert (changed["tier"], changed["limits"]) == ("big", {"jobs_at_once": 2, "requests_per_minute": 9})
    status, _headers, answer = await operator.ask("PATCH", "/accounts/ann", {})
    assert (status, json.loads(answer)) == (200, changed)
    status, _headers, answer = await operator.ask("PATCH", "/accounts/ann", {"tier": "gold"})
    assert (status, error_of(answer)["param"]) == (400, "tier")


async def test_rotation_lets_the_old_key_end_after_its_time(operator: Operator) -> None:
    old = await created(operator)
    status, _headers, answer = await operator.ask("POST", "/accounts/ann/rotate", {"keep": "24h", "expires": "90d"})
    new = json.loads(answer)
    assert status == 201
    assert [key["state"] for key in new["account"]["keys"]] == ["active", "active"]
    account, _key = await operator.admin_harness.book.find("ann")
    ends = [key.expires_at or 0 for key in account.keys]
    assert ends[0] == pytest.approx(time.time() + 86_400, abs=30)
    assert ends[1] == pytest.approx(time.time() + 90 * 86_400, abs=30)
    assert new["key"] != old["key"]
    status, _headers, answer = await operator.ask("POST", "/accounts/ann/rotate")
    assert [key["state"] for key in json.loads(answer)["account"]["keys"]] == ["expired", "expired", "active"]
    status, _headers, answer = await operator.ask("POST", "/accounts/ann/rotate", {"keep": "for ever"})
    assert (status, error_of(answer)["param"]) == (400, "keep")


async def test_one_key_or_all_are_revoked(operator: Operator) -> None:
    first = (await created(operator))["key"]
    await operator.ask("POST", "/accounts/ann/rotate", {"keep": "24h"})
    status, _headers, answer = await operator.ask("POST", "/keys/revoke", {"who": first})
    assert status == 200
    assert [key["state"] for key in json.loads(answer)["keys"]] == ["revoked", "active"]
    status, _headers, answer = await operator.ask("POST", "/keys/revoke", {"who": "ann"})
    assert [key["state"] for key in json.loads(answer)["keys"]] == ["revoked", "revoked"]
    assert len(operator.admin_harness.announced) == 4


async def test_account_that_nobody_or_more_than_one_has_is_404(operator: Operator) -> None:
    for name in ("twin", "twin"):
        await created(operator, name=name)
    for who, words in (("nobody", "no account"), ("twin", "2 accounts"), ("k_0123456789abcdef", "no account")):
        status, _headers, answer = await operator.ask("GET", f"/accounts/{who}")
        assert (status, error_of(answer)["code"]) == (404, "unknown_account")
        assert words in error_of(answer)["message"]
    status, _headers, answer = await operator.ask("POST", "/keys/revoke", {"who": "cb_unknown"})
    assert status == 404
    assert "cb_unknown" not in answer.decode()


async def test_key_in_a_path_is_refused(operator: Operator) -> None:
    key = (await created(operator))["key"]
    status, _headers, answer = await operator.ask("GET", f"/accounts/{key}")
    assert (status, error_of(answer)["param"]) == (400, "account")
    assert key not in answer.decode()


async def test_change_beside_a_change_of_others_keeps_both(operator: Operator) -> None:
    made = await created(operator)
    entry = f"account.{made['account']['id']}"
    stored = await operator.admin_harness.bucket.get(entry)
    assert stored is not None
    others = stored.value.replace(b'"name":"ann"', b'"name":"anna"')
    times = [1]

    def interfere(key: str) -> None:
        if key == entry and times.pop() == 1:
            operator.admin_harness.bucket.set(key, others)
            times.append(0)

    operator.admin_harness.bucket.before_put = interfere
    status, _headers, answer = await operator.ask("PATCH", "/accounts/ann", {"tier": "big"})
    changed = json.loads(answer)
    assert (status, changed["name"], changed["tier"]) == (200, "anna", "big")


async def test_change_that_others_always_forestall_is_409(operator: Operator) -> None:
    made = await created(operator)
    stored = await operator.admin_harness.bucket.get(f"account.{made['account']['id']}")
    assert stored is not None
    operator.admin_harness.bucket.before_put = lambda key: operator.admin_harness.bucket.set(key, stored.value)
    status, headers, answer = await operator.ask("PATCH", "/accounts/ann", {"tier": "big"})
    assert (status, error_of(answer)["code"]) == (409, "conflict")
    assert headers["x-should-retry"] == "true"


async def test_usage_is_shown_with_names_the_greatest_first(operator: Operator) -> None:
    account = (await created(operator))["account"]
    operator.admin_harness.usage.units = {account["id"]: 12_345, "site": 99_000, "i_0123456789abcdef": 5}
    status, _headers, answer = await operator.ask("GET", "/usage?since=7d&limit=2")
    shown = json.loads(answer)
    assert (status, shown["tenants"]) == (200, 3)
    assert shown["usage"] == [
        {"tenant": "site", "name": None, "tier": None, "tokens": 99.0},
        {"tenant": account["id"], "name": "ann", "tier": "standard", "tokens": 12.345},
    ]
    status, _headers, answer = await operator.ask("GET", "/usage?who=ann&until=1h")
    assert [one["tenant"] for one in json.loads(answer)["usage"]] == [account["id"]]
    since, until, tenant = operator.admin_harness.usage.asked[-1]
    assert tenant == account["id"]
    assert until - since == pytest.approx(23 * 3600, abs=30)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("since=yesterday", "since"),
        ("since=1h&until=2h", "since"),
        ("until=never", "until"),
        ("since=2999-01-01", "since"),
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("sinc=1h", "sinc"),
    ],
)
async def test_usage_with_a_wrong_query_is_refused_by_its_name(query: str, param: str, operator: Operator) -> None:
    status, _headers, answer = await operator.ask("GET", f"/usage?{query}")
    assert (status, error_of(answer)["param"]) == (400, param)


async def test_export_as_csv_has_every_row(operator: Operator) -> None:
    operator.admin_harness.usage.rows = [event_row(n) for n in range(1, 1001)]
    status, headers, answer = await operator.ask("GET", "/usage/export")
    assert (status, headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    assert headers["Content-Disposition"] == 'attachment; filename="usage.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.decode())))
    assert [int(row["seq"]) for row in rows] == list(range(1, 1001))
    assert rows[0] == {name: str(value) for name, value in event_row(1).items()}


async def test_export_of_nothing_is_a_header(operator: Operator) -> None:
    _status, _headers, answer = await operator.ask("GET", "/usage/export?who=site&since=1h")
    assert answer.startswith(b"seq,at,request_id,")
    assert answer.count(b"\n") == 1
    assert operator.admin_harness.usage.asked[0][2] == "site"


async def test_export_as_parquet_has_every_row(operator: Operator) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    operator.admin_harness.usage.rows = [event_row(n) for n in range(1, 20_001)]
    status, headers, answer = await operator.ask("GET", "/usage/export?format=parquet")
    assert (status, headers["Content-Type"]) == (200, "application/vnd.apache.parquet")
    file = parquet.ParquetFile(arrow.BufferReader(answer))
    assert file.num_row_groups == 3
    assert file.read().to_pylist()[19_999] == event_row(20_000)


async def test_export_as_parquet_without_its_package_is_refused(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _headers, answer = await operator.ask("GET", "/usage/export?format=parquet")
    assert (status, error_of(answer)["code"], error_of(answer)["param"]) == (400, "unsupported", "format")
    assert "pyarrow" in error_of(answer)["message"]
    status, _headers, answer = await operator.ask("GET", "/usage/export?format=xml")
    assert (status, error_of(answer)["param"]) == (400, "format")


async def test_export_that_fails_early_has_a_status_and_late_is_cut_off(operator: Operator) -> None:
    operator.admin_harness.usage.trouble = BusUnavailable("no answer in time")
    status, headers, answer = await operator.ask("GET", "/usage/export")
    assert (status, error_of(answer)["code"], headers["Retry-After"]) == (503, "bus_unavailable", "2")
    operator.admin_harness.usage.trouble = None
    operator.admin_harness.usage.rows = [event_row(n) for n in range(1, 300)]
    operator.admin_harness.usage.late_trouble = BusUnavailable("no answer in time")
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionError)):
        await operator.ask("GET", "/usage/export")


async def test_verification_is_told_as_quota_reports_it(operator: Operator) -> None:
    operator.admin_harness.usage.report = VerifyReply(events=7, counters=3, drift_count=1, drift_units=5)
    status, _headers, answer = await operator.ask("POST", "/usage/verify", {"since": "2h"})
    report = json.loads(answer)
    assert (status, report["events"], report["drift_count"], report["drift_units"]) == (200, 7, 1, 5)
    assert operator.admin_harness.usage.asked[0][0] == pytest.approx(time.time() - 7200, abs=30)
    assert (await operator.ask("POST", "/usage/verify"))[0] == 200
    status, _headers, answer = await operator.ask("POST", "/usage/verify", {"since": "-1h"})
    assert (status, error_of(answer)["param"]) == (400, "since")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (NoResponders("quota.verify"), "No quota process"),
        (BusUnavailable("the quota process that verified was not heard of again"), "not heard of again"),
        (
            CallboardError.of(ErrorInfo(code=ErrorCode.QUOTA_UNAVAILABLE, message="The store is away.")),
            "The store is away",
        ),
    ],
)
async def test_verification_that_nobody_finishes_is_503(trouble: Exception, words: str, operator: Operator) -> None:
    operator.admin_harness.usage.trouble = trouble
    status, _headers, answer = await operator.ask("POST", "/usage/verify")
    assert (status, error_of(answer)["code"]) == (503, "quota_unavailable")
    assert words in error_of(answer)["message"]


async def test_story_of_a_request_is_told(operator: Operator) -> None:
    operator.admin_harness.usage.audit_trails["r1"] = [
        AuditEvent(kind="admitted", request_id="r1", hold_id="h", tenant="site", units=5000, at=0.0),
        AuditEvent(kind="settled", request_id="r1", hold_id="h", tenant="site", units=1500, at=1.5),
    ]
    status, _headers, answer = await operator.ask("GET", "/audit/r1")
    audit_trail = json.loads(answer)
    assert (status, audit_trail["request_id"]) == (200, "r1")
    assert [(one["what"], one["tokens"]) for one in audit_trail["events"]] == [("admitted", 5.0), ("settled", 1.5)]
    assert audit_trail["events"][1]["at"] == "1970-01-01T00:00:01.500+00:00"
    status, _headers, answer = await operator.ask("GET", "/audit/r2")
    assert (status, error_of(answer)["code"]) == (404, "not_found")


async def leave(operator: Operator, method: str, path: str, *, read: int) -> None:
    """Asks, reads so many bytes of the answer, and leaves."""
    reader, writer = await asyncio.open_connection("127.0.0.1", operator.harness.port)
    head = f"{method} /admin/v1{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(20):
        if read:
            await reader.readexactly(read)
        else:
            while not operator.admin_harness.usage.asked:
                await asyncio.sleep(0.01)
    writer.transport.abort()


async def test_client_that_leaves_an_export_ends_it(operator: Operator) -> None:
    operator.admin_harness.usage.rows = [event_row(n) for n in range(100_000)]
    await leave(operator, "GET", "/usage/export", read=1000)
    await asyncio.wait_for(operator.admin_harness.usage.left.wait(), 10)
    assert operator.admin_harness.usage.left.is_set()
    async with asyncio.timeout(20):
        while not operator.harness.figure("callboard_edge_clients_gone_total", route="admin_export"):
            await asyncio.sleep(0.01)


async def test_client_that_leaves_a_verification_ends_its_waiting(operator: Operator) -> None:
    operator.admin_harness.usage.verifying.clear()
    await leave(operator, "POST", "/usage/verify", read=0)
    await asyncio.wait_for(operator.admin_harness.usage.left.wait(), 10)
    assert operator.admin_harness.usage.left.is_set()


async def test_head_of_an_export_has_no_body(operator: Operator) -> None:
    operator.admin_harness.usage.rows = [event_row(1)]
    status, headers, answer = await operator.ask("HEAD", "/usage/export")
    assert (status, headers["Content-Type"], answer) == (200, "text/csv; charset=utf-8", b"")
    assert (await operator.ask("GET", "/accounts"))[0] == 200
