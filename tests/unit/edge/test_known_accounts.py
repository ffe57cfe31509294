"""Quota is asked about a volunteer's key now and then, not with every call."""

import asyncio

import pytest

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.known_accounts import FRESH_S, KEPT_S, KnownAccounts
from callboard_kit.background_tasks import BackgroundTasks

pytestmark = pytest.mark.unit

KEY = "ab" * 32


class Quota:
    """Says whose a key is, when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.now_s = 0.0
        self.error: ErrorCode | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.known = KnownAccounts(BackgroundTasks(), lambda: self.now_s)

    async def ask(self) -> str | None:
        self.asked += 1
        await self.open.wait()
        if self.error is not None:
            raise CallboardError(self.error, "no")
        return "k_own"

    async def account(self) -> str | None:
        async with asyncio.timeout(5):
            return await self.known.account(KEY, self.ask)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def quota() -> Quota:
    return Quota()


async def test_one_question_answers_all_that_come_meanwhile_and_soon_after(quota: Quota) -> None:
    quota.open.clear()
    asked = [asyncio.ensure_future(quota.account()) for _ in range(50)]
    await quota.settle()
    quota.open.set()
    assert await asyncio.gather(*asked) == ["k_own"] * 50
    quota.now_s = FRESH_S - 1
    assert await quota.account() == "k_own"
    assert quota.asked == 1


async def test_nobody_waits_for_a_question_about_a_key_that_is_known(quota: Quota) -> None:
    await quota.account()
    quota.now_s = FRESH_S
    quota.open.clear()
    assert [await quota.account() for _ in range(3)] == ["k_own"] * 3
    await quota.settle()
    assert quota.asked == 2
    quota.open.set()


async def test_a_revoked_key_is_refused_from_the_next_answer_on(quota: Quota) -> None:
    await quota.account()
    quota.now_s, quota.error = FRESH_S, ErrorCode.INVALID_API_KEY
    assert await quota.account() == "k_own"
    await quota.settle()
    with pytest.raises(CallboardError) as refused:
        await quota.account()
    assert refused.value.info.code is ErrorCode.INVALID_API_KEY


async def test_a_key_stays_known_for_a_while_where_quota_is_silent(quota: Quota) -> None:
    await quota.account()
    quota.error = ErrorCode.QUOTA_UNAVAILABLE
    for now_s in (FRESH_S, KEPT_S - 1):
        quota.now_s = now_s
        assert await quota.account() == "k_own"
        await quota.settle()
    quota.now_s = KEPT_S
    with pytest.raises(CallboardError):
        await quota.account()
