"""The admin API's kudos: what an operator may ask for, and what is refused before quota is asked."""

import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.kudos import KudosChange, KudosLeader, KudosPayment
from callboard_kit.bus import BusUnavailable, NoResponders
from tests.unit.edge.admin_harness import AdminHarness, Operator
from tests.unit.edge.harness import running

pytestmark = pytest.mark.unit


@pytest.fixture
async def operator() -> AsyncGenerator[Operator]:
    admin_harness = AdminHarness()
    async with running(admin=admin_harness.administration()) as harness:
        operator = Operator(harness, admin_harness)
        for name in ("ann", "bob"):
            assert (await operator.ask("POST", "/accounts", {"name": name}))[0] == 201
        yield operator


async def asked(operator: Operator, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    status, _headers, answer = await operator.ask(method, path, body)
    return status, json.loads(answer)


async def test_account_earns_gives_and_its_history_tells_it(
    operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    status, earned = await asked(operator, "POST", "/accounts/ann/kudos", {"amount": 12.345, "id": "e-1"})
    assert (status, earned["id"], earned["kudos"], earned["repeated"]) == (200, "e-1", 12.345, False)
    status, repeated = await asked(operator, "POST", "/accounts/ann/kudos", {"amount": 12.345, "id": "e-1"})
    assert (status, repeated) == (200, {**earned, "repeated": True})
    status, given = await asked(operator, "POST", "/accounts/ann/kudos/transfer", {"to": "bob", "amount": 0.345})
    assert (status, given["account"], given["kudos"]) == (200, earned["account"], 12)
    assert given["id"]
    assert (await asked(operator, "GET", "/accounts/bob/kudos"))[1]["kudos"] == 0.345
    status, told = await asked(operator, "GET", "/accounts/ann/kudos/history")
    assert [(one["change"], one["kudos"]) for one in told["changes"]] == [(12.345, 12.345), (-0.345, 12)]
    assert told["next"] is None
    noted = [(one.__dict__.get("action"), one.__dict__.get("account")) for one in caplog.records]
    assert ("kudos_transfer", earned["account"]) in noted


async def test_history_is_told_in_parts(operator: Operator) -> None:
    for n in range(1, 6):
        await asked(operator, "POST", "/accounts/ann/kudos", {"amount": n})
    changes: list[float] = []
    after: int | None = 0
    parts = 0
    while after is not None:
        _, told = await asked(operator, "GET", f"/accounts/ann/kudos/history?limit=2&after={after}")
        changes += [one["change"] for one in told["changes"]]
        after = told["next"]
        parts += 1
    assert (changes, parts) == ([1, 2, 3, 4, 5], 3)


async def test_what_follows_an_old_change_is_told_however_old_it_is(operator: Operator) -> None:
    account = (await asked(operator, "POST", "/accounts/ann/kudos", {"amount": 1}))[1]["account"]
    old = [KudosChange(n, float(n), 1000, n * 1000, "old") for n in range(1, 4)]
    operator.admin_harness.kudos.changes[account] = old
    path = "/accounts/ann/kudos/history"
    assert (await asked(operator, "GET", path))[1]["changes"] == []
    _, told = await asked(operator, "GET", f"{path}?since=1970-01-01&limit=1")
    assert (len(told["changes"]), told["next"]) == (1, 1)
    _, told = await asked(operator, "GET", f"{path}?after=1")
    assert [one["kudos"] for one in told["changes"]] == [2, 3]


@pytest.mark.parametrize("amount", [0, -1, 0.0001, 10**12 + 1, 1e300, "many", True, None, [1], ""])
async def test_amount_that_is_none_is_refused_by_its_name(operator: Operator, amount: Any) -> None:
    for path, more in (("kudos", {}), ("kudos/transfer", {"to": "bob"})):
        status, answer = await asked(operator, "POST", f"/accounts/ann/{path}", {"amount": amount, **more})
        assert (status, answer["error"]["param"]) == (400, "amount")
    assert operator.admin_harness.kudos.balances == {}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/accounts/ann/kudos", {}, 400, "amount"),
        ("/accounts/ann/kudos", {"amount": 1, "id": "a.b"}, 400, "id"),
        ("/accounts/ann/kudos", {"amount": 1, "id": "x" * 65}, 400, "id"),
        ("/accounts/ann/kudos", {"amount": 1, "amounts": 2}, 400, "amounts"),
        ("/accounts/nobody/kudos", {"amount": 1}, 404, "who"),
        ("/accounts/ann/kudos/transfer", {"to": "nobody", "amount": 1}, 404, "who"),
        ("/accounts/ann/kudos/transfer", {"to": "", "amount": 1}, 400, "to"),
        ("/accounts/ann/kudos/transfer", {"amount": 1}, 400, "to"),
        (f"/accounts/cb_{'k' * 40}/kudos", {"amount": 1}, 400, "account"),
    ],
)
async def test_wrong_request_is_refused_and_nothing_moves(
    operator: Operator, path: str, body: Any, status: int, param: str
) -> None:
    found, answer = await asked(operator, "POST", path, body)
    assert (found, answer["error"]["param"]) == (status, param)
    assert operator.admin_harness.kudos.balances == {}


async def test_refusal_by_quota_is_told_as_it_is(operator: Operator) -> None:
    body = {"to": "bob", "amount": 5}
    status, answer = await asked(operator, "POST", "/accounts/ann/kudos/transfer", body)
    assert (status, answer["error"]["limit"]) == (429, "key.kudos")
    await asked(operator, "POST", "/accounts/ann/kudos", {"amount": 5, "id": "one"})
    status, answer = await asked(operator, "POST", "/accounts/bob/kudos", {"amount": 5, "id": "one"})
    assert (status, answer["error"]["param"]) == (400, "id")


@pytest.mark.parametrize(
    ("trouble", "code"), [(NoResponders("q"), "quota_unavailable"), (BusUnavailable("no answer"), "bus_unavailable")]
)
async def test_trouble_of_the_bus_is_503(operator: Operator, trouble: Exception, code: str) -> None:
    operator.admin_harness.kudos.trouble = trouble
    for method, path, body in (
        ("GET", "/accounts/ann/kudos", None),
        ("POST", "/accounts/ann/kudos", {"amount": 1}),
        ("GET", "/accounts/ann/kudos/history", None),
    ):
        status, answer = await asked(operator, method, path, body)
        assert (status, answer["error"]["code"]) == (503, code)


@pytest.mark.parametrize(
    ("query", "param"), [("since=later", "since"), ("limit=0", "limit"), ("after=-1", "after"), ("from=1", "from")]
)
async def test_history_of_an_impossible_part_is_refused(operator: Operator, query: str, param: str) -> None:
    status, answer = await asked(operator, "GET", f"/accounts/ann/kudos/history?{query}")
    assert (status, answer["error"]["param"]) == (400, param)


async def test_accounts_whose_volunteers_earned_most(operator: Operator) -> None:
    account = (await asked(operator, "POST", "/accounts/ann/kudos", {"amount": 1}))[1]["account"]
    operator.admin_harness.kudos.earners = [
        KudosLeader(account, 4_000, 40_000),
        KudosLeader("k_00000000000000ff", 5_000, 0),
    ]
    status, told = await asked(operator, "GET", "/kudos/leaders?since=7d")
    assert status == 200
    assert told["leaders"] == [
        {"account": account, "name": "ann", "rewards": 4, "uptime": 40, "kudos": 1},
        {"account": "k_00000000000000ff", "name": None, "rewards": 5, "uptime": 0, "kudos": 0},
    ]
    assert len((await asked(operator, "GET", "/kudos/leaders?limit=1"))[1]["leaders"]) == 1
    for query in ("since=when", "limit=0", "limit=1001", "sincee=7d"):
        assert (await asked(operator, "GET", f"/kudos/leaders?{query}"))[0] == 400


async def test_what_a_volunteer_was_paid_is_told_in_parts(operator: Operator) -> None:
    worker = "5a1c4be0-5d7e-5f0f-9c54-2f3c2f0f7f11"
    operator.admin_harness.kudos.paid[worker] = [
        KudosPayment(n, 4e9 + n, "k_1", n * 1000, "reward", f"reward-r{n}") for n in range(1, 4)
    ]
    status, told = await asked(operator, "GET", f"/kudos/workers/{worker}/history?limit=2")
    assert (status, told["worker"], told["next"]) == (200, worker, 2)
    assert [(one["amount"], one["id"]) for one in told["payments"]] == [(1, "reward-r1"), (2, "reward-r2")]
    _, rest = await asked(operator, "GET", f"/kudos/workers/{worker}/history?after=2")
    assert ([one["amount"] for one in rest["payments"]], rest["next"]) == ([3], None)
