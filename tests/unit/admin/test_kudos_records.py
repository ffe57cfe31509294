"""What the verification of kudos finds."""

import pytest

from callboard_admin.kudos_records import Sums, judge
from callboard_contracts.quota import AuditEvent

pytestmark = pytest.mark.unit


def transaction(name: str, reason: str, amount: int, kind: str = "settled") -> AuditEvent:
    fields = {"kind": kind, "request_id": name, "hold_id": f"{name}-x", "work": "kudos", "reason": reason, "at": 1.0}
    return AuditEvent.model_validate({**fields, "kudos": amount if kind == "settled" else 0})


def counters(*changes: tuple[str, int, str]) -> Sums:
    sums = Sums()
    for account, change, msg_id in changes:
        sums.add(account, change, msg_id)
    return sums


EARNED = ("ada", 100, "e-x.s0")
FATES = {
    "e-x": transaction("e", "earn", 100),
    "t-x": transaction("t", "transfer", 30),
    "u-x": transaction("u", "transfer", 50, "expired"),
}
GIVEN = [("ada", -30, "t-x.r0"), ("ada", 0, "t-x.s0"), ("bob", 30, "t-x.s1")]


def test_whole_books_have_no_problem() -> None:
    undone = [("bob", -50, "u-x.r0"), ("bob", 50, "u-x.s0")]
    spent = [("ada", -20, "r-1.r1"), ("ada", 8, "r-1.s1"), ("bob", -5, "r-2.r1")]
    verdict = judge(counters(EARNED, *GIVEN, *undone, *spent), FATES)
    assert verdict.problems == frozenset()
    assert (verdict.earned, verdict.spent, verdict.held, verdict.total) == (100, 12, 5, 83)


@pytest.mark.parametrize(
    "changes",
    [
        [EARNED, *GIVEN[:1]],
        [EARNED, *GIVEN[2:]],
        GIVEN,
        [EARNED, *GIVEN, ("bob", -50, "u-x.r0")],
        [EARNED, *GIVEN, ("ada", 9, "r-1.s1")],
        [EARNED, *GIVEN, ("cid", -9, "r-1.r1")],
    ],
    ids=["half a transfer", "other half", "nothing earned", "not undone", "gave more", "below zero"],
)
def test_books_that_do_not_agree_are_found(changes: list[tuple[str, int, str]]) -> None:
    assert judge(counters(*changes), FATES).problems
