"""Holds taken ahead for callers who ask again and again, so that their next request does not wait for quota.

A caller's second request within a moment has the hold for a third taken beside it. The next request that it fits uses
that at once, under the id that it was taken for. It is released when the caller falls silent, when accounts change, and
when it would stand in the way of a request that quota refuses. None is taken where a limit is more than half used, or
counts jobs at one time, so that limits stay exact.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import SystemRandom
from time import monotonic
from typing import Literal

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.kudos import KudosReply, KudosTransferRequest, KudosUptimeRequest
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    LimitState,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
    Work,
)
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.ports import Background, QuotaClient

IDLE_S = 0.5
"""A caller without an open request for this long gets nothing ahead, and what was taken is released."""
MAX_AGE_S = 10.0
"""So long a hold is kept, and so long after a key expired one of its requests may still be let in."""
SWEEP_S = 0.25
TAKE_AFTER_S = 0.001
"""The request that is on its way goes first."""
MAX_CALLERS = 1024
MAX_AHEAD = 16
"""How many holds may lie ready for one caller."""
FREE_SHARE = 0.5
FREE_REQUESTS = 64
"""A limit must leave this share of itself, and room for so many requests, for a hold to be taken ahead."""
MINUTE_S = 60.0
_TOKEN_LIMITS = frozenset({"tokens_per_day", "tokens_per_month"})
_MINUTE_LIMIT = "requests_per_minute"
_random = SystemRandom()

Result = Literal["used", "released"]


def fresh_id() -> str:
    """A new id of a request."""
    return f"{_random.getrandbits(128):032x}"


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A hold that waits for its request."""

    request: ReserveRequest
    reply: ReserveReply
    hold: Hold
    taken_at: float
    minute: float

    def fits(self, request: ReserveRequest, now: float, minute: float) -> bool:
        mine, wanted = self.request, request
        return (
            (wanted.kind, wanted.model, wanted.kudos, wanted.extends) == (mine.kind, mine.model, 0, None)
            and wanted.life_s + MAX_AGE_S <= mine.life_s
            and wanted.work.prompt_tokens <= mine.work.prompt_tokens
            and wanted.work.completion_tokens <= mine.work.completion_tokens
            and now - self.taken_at <= MAX_AGE_S
            and minute == self.minute
        )


@dataclass(slots=True, eq=False)
class _Repeater:
    """A caller who asked lately."""

    asked_at: float
    open: int = 0
    asking: int = 0
    ready: deque[_Ahead] = field(default_factory=deque[_Ahead])

    def is_idle(self, now: float) -> bool:
        return not self.open and now - self.asked_at > IDLE_S


class HoldsAhead:
    """Quota as `quota` answers, with holds taken ahead; `now` is the bus's Unix time, by whose minutes limits count.

    `begin` and `end` enclose each request of a client. `count` is told what became of a hold that was taken ahead. None
    is, unless this is `enabled`.
    """

    def __init__(
        self,
        quota: QuotaClient,
        background: Background,
        now: Callable[[], float],
        count: Callable[[Result], None] = lambda _result: None,
        *,
        enabled: bool = True,
    ) -> None:
        self._quota = quota
        self._background = background
        self._now = now
        self._count = count
        self._repeaters: dict[Caller, _Repeater] = {}
        self._begun: dict[str, _Repeater | None] = {}
        """The open requests, and the callers of those that took a hold."""
        self._taken: dict[str, _Ahead] = {}
        """The holds of requests that have begun and not asked yet."""
        self._noted: list[tuple[_Repeater, ReserveRequest, tuple[LimitState, ...], int]] = []
        """The requests after which a hold is taken, where their limits leave room: for all of a moment at once."""
        self._loop = asyncio.get_running_loop()
        self._changes = 0
        """How often accounts have changed."""
        self._closed = not enabled

    def begin(self, caller: Caller) -> str:
        """The id of a new request: that of a hold which was taken ahead for its caller, or else a fresh one."""
        repeater = self._repeaters.get(caller)
        if repeater is not None and repeater.ready:
            ahead = repeater.ready.popleft()
            request_id = ahead.hold.request_id
            self._taken[request_id] = ahead
        else:
            request_id = fresh_id()
        self._begun[request_id] = None
        return request_id

    def end(self, request_id: str) -> None:
        """Takes note that a request is answered; a hold that it did not use is released."""
        if (ahead := self._taken.pop(request_id, None)) is not None:
            self._release(ahead)
        repeater = self._begun.pop(request_id, None)
        if repeater is not None:
            repeater.open -= 1
            repeater.asked_at = monotonic()

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Takes a hold, or says why not; see `QuotaClient`."""
        caller = Caller(request.key_digest, request.address)
        ahead = self._taken.pop(request.request_id, None)
        if ahead is not None and ahead.fits(request, monotonic(), self._now() // MINUTE_S):
            self._count("used")
            reply = ahead.reply
        else:
            if ahead is not None:
                self._release(ahead)
            reply = await self._quota.reserve(request)
            repeater = self._repeaters.get(caller)
            if _is_over_limit(reply.error) and repeater is not None and repeater.ready:
                await self._release_now(repeater)
                reply = await self._quota.reserve(request)
        if reply.hold is not None and request.request_id in self._begun:
            self._note(caller, request, reply.states)
        return reply

    def reserve_later(self, request: ReserveRequest, on_end: Callable[[ReserveReply | None], None]) -> None:
        """Asks for a hold that no request waits for; see `QuotaClient`."""
        self._quota.reserve_later(request, on_end)

    async def release(self, hold: Hold) -> None:
        """Gives a hold back; see `QuotaClient`."""
        await self._quota.release(hold)

    async def check_caller(self, key_digest: str | None) -> ErrorInfo | None:
        """Why a caller's request is not even read; see `QuotaClient`."""
        return await self._quota.check_caller(key_digest)

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is; see `QuotaClient`."""
        return await self._quota.identify(request)

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says what a caller has used; see `QuotaClient`."""
        return await self._quota.usage(request)

    async def kudos(self, account: str) -> KudosReply:
        """Says what an account is called and has; see `QuotaClient`."""
        return await self._quota.kudos(account)

    async def pay_uptime(self, request: KudosUptimeRequest) -> KudosReply:
        """Pays a volunteer; see `QuotaClient`."""
        return await self._quota.pay_uptime(request)

    async def transfer_kudos(self, request: KudosTransferRequest) -> KudosReply:
        """Moves kudos; see `QuotaClient`."""
        return await self._quota.transfer_kudos(request)

    def drop_all(self) -> None:
        """Releases everything that was taken ahead, because what it was granted on may have changed."""
        self._changes += 1
        for repeater in self._repeaters.values():
            while repeater.ready:
                self._release(repeater.ready.popleft())

    async def run(self) -> None:
        """Releases what is not used in time, for as long as the process runs; then takes no more."""
        try:
            while True:
                await asyncio.sleep(SWEEP_S)
                self.sweep()
        finally:
            self._closed = True
            self.drop_all()
            self._repeaters.clear()

    def sweep(self) -> None:
        """Releases what is not used in time, and forgets who has fallen silent."""
        now = monotonic()
        for caller, repeater in list(self._repeaters.items()):
            idle = repeater.is_idle(now)
            while repeater.ready and (idle or now - repeater.ready[0].taken_at > MAX_AGE_S):
                self._release(repeater.ready.popleft())
            if idle and not repeater.asking:
                del self._repeaters[caller]

    def _note(self, caller: Caller, request: ReserveRequest, states: tuple[LimitState, ...]) -> None:
        """Learns that a caller asked, and has the next hold taken where that is expected."""
        now = monotonic()
        repeater = self._repeaters.get(caller)
        again = repeater is not None and not repeater.is_idle(now)
        if repeater is None:
            if len(self._repeaters) >= MAX_CALLERS or self._closed:
                return
            repeater = self._repeaters[caller] = _Repeater(now)
        repeater.asked_at = now
        if self._begun[request.request_id] is None:
            self._begun[request.request_id] = repeater
            repeater.open += 1
        expected = again and request.kind == "chat" and not request.kudos and request.extends is None
        if not expected or len(repeater.ready) + repeater.asking >= MAX_AHEAD:
            return
        repeater.asking += 1
        if not self._noted:
            self._loop.call_later(TAKE_AFTER_S, self._ask)
        self._noted.append((repeater, request, states, self._changes))

    def _ask(self) -> None:
        """Asks quota for a hold after each request that leaves room for one; all of these are sent together."""
        noted, self._noted = self._noted, []
        now, minute = monotonic(), self._now() // MINUTE_S
        for repeater, request, states, changes in noted:
            wanted = None if self._closed else _next_hold(request, states)
            if wanted is None:
                repeater.asking -= 1
            else:
                self._quota.reserve_later(wanted, partial(self._take, repeater, wanted, now, minute, changes))

    def _take(
        self,
        repeater: _Repeater,
        request: ReserveRequest,
        asked_at: float,
        minute: float,
        changes: int,
        reply: ReserveReply | None,
    ) -> None:
        """Keeps a hold that was asked for, or releases it where things have changed meanwhile."""
        repeater.asking -= 1
        if reply is None:
            self._background.start(self._take_back(request), "take-back-ahead")
            return
        if reply.hold is None:
            return
        ahead = _Ahead(request, reply, reply.hold, asked_at, minute)
        if self._closed or changes != self._changes or repeater.is_idle(monotonic()):
            self._release(ahead)
        else:
            repeater.ready.append(ahead)

    async def _take_back(self, request: ReserveRequest) -> None:
        """Gives back what quota may have granted to nobody's knowledge: a repeat takes the place of what was before."""
        reply = await self._quota.reserve(request.model_copy(update={"repeat": request.repeat + 1}))
        if reply.hold is not None:
            await self._quota.release(reply.hold)

    async def _release_now(self, repeater: _Repeater) -> None:
        releases = [self._release(ahead) for ahead in repeater.ready]
        repeater.ready.clear()
        await asyncio.gather(*releases)

    def _release(self, ahead: _Ahead) -> asyncio.Task[None]:
        self._count("released")
        return self._background.start(self._quota.release(ahead.hold), "release-ahead")


def _is_over_limit(error: ErrorInfo | None) -> bool:
    return error is not None and error.code is ErrorCode.QUOTA_EXCEEDED


def _next_hold(request: ReserveRequest, states: tuple[LimitState, ...]) -> ReserveRequest | None:
    """What is asked for ahead after a request, or None where that might be in the way of somebody's limit.

    It has room for a longer prompt, since a conversation's grows from turn to turn.
    """
    work = request.work
    prompt_tokens = work.prompt_tokens + work.prompt_tokens // 4 + 16
    for state in states:
        if not _leaves_room(state, prompt_tokens + work.completion_tokens):
            return None
    return ReserveRequest(
        request_id=fresh_id(),
        kind=request.kind,
        model=request.model,
        work=Work(prompt_tokens=prompt_tokens, completion_tokens=work.completion_tokens),
        key_digest=request.key_digest,
        address=request.address,
        life_s=request.life_s + MAX_AGE_S,
    )


def _leaves_room(state: LimitState, tokens: int) -> bool:
    """Whether a limit is so far away that a hold more changes nothing for anybody."""
    kind = state.limit.rpartition(".")[2]
    if kind == _MINUTE_LIMIT:
        needed = FREE_REQUESTS
    elif kind in _TOKEN_LIMITS:
        needed = FREE_REQUESTS * tokens
    else:
        return False
    return state.remaining >= max(needed, FREE_SHARE * state.allowed)
