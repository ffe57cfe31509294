"""What the verification of kudos finds."""

import pytest

from callboard_admin.kudos_records import KudosTotals, check_totals
from callboard_contracts.quota import AuditEvent

pytestmark = pytest.mark.unit


def transaction(name: str, reason: str, amount: int, kind: str = "settled") -> AuditEvent:
    fields = {"kind": kind, "request_id": name, "hold_id": f"{name}-x", "work": "kudos", "reason": reason, "at": 1.0}
    return AuditEvent.model_validate({**fields, "kudos": amount if kind == "settled" else 0})


def totals_of(*changes: tuple[str, int, str]) -> KudosTotals:
    totals = KudosTotals()
    for account, change, msg_id in changes:
        totals.add(account, change, msg_id)
    return totals


EARNED = ("ada", 100, "e-x.s0")
OUTCOMES = {
    "e-x": transaction("e", "earn", 100),
    "t-x": transaction("t", "transfer", 30),
    "u-x": transaction("u", "transfer", 50, "expired"),
}
TRANSFERRED = [("ada", -30, "t-x.r0"), ("ada", 0, "t-x.s0"), ("bob", 30, "t-x.s1")]


def test_balanced_totals_have_no_problem() -> None:
    reversed_transfer = [("bob", -50, "u-x.r0"), ("bob", 50, "u-x.s0")]
    spent = [("ada", -20, "r-1.r1"), ("ada", 8, "r-1.s1"), ("bob", -5, "r-2.r1")]
    result = check_totals(totals_of(EARNED, *TRANSFERRED, *reversed_transfer, *spent), OUTCOMES)
    assert result.problems == frozenset()
    assert (result.earned, result.spent, result.held, result.total) == (100, 12, 5, 83)


@pytest.mark.parametrize(
    "changes",
    [
        [EARNED, *TRANSFERRED[:1]],
        [EARNED, *TRANSFERRED[2:]],
        TRANSFERRED,
        [EARNED, *TRANSFERRED, ("bob", -50, "u-x.r0")],
        [EARNED, *TRANSFERRED, ("ada", 9, "r-1.s1")],
        [EARNED, *TRANSFERRED, ("cid", -9, "r-1.r1")],
    ],
    ids=["half a transfer", "other half", "nothing earned", "not reversed", "credited more", "below zero"],
)
def test_totals_that_do_not_balance_are_found(changes: list[tuple[str, int, str]]) -> None:
    assert check_totals(totals_of(*changes), OUTCOMES).problems


def test_payments_of_volunteers_create_kudos() -> None:
    outcomes = {"w-x": transaction("w", "reward", 40), "p-x": transaction("p", "uptime", 60)}
    result = check_totals(totals_of(("ada", 40, "w-x.s0"), ("ada", 60, "p-x.s0")), outcomes)
    assert (result.problems, result.earned, result.total) == (frozenset(), 100, 100)
