"""Calls the webhooks of requests with each text that is there, at least once."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from callboard_contracts.chat import ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.kept import KeptGroup
from callboard_contracts.streams import RESULT_LIFE_S
from callboard_contracts.webhooks import WebhooksSection, WebhookTask
from callboard_edge.domain.kept_jobs import KeptJobs
from callboard_edge.domain.ports import ResultStore
from callboard_edge.domain.webhook_addresses import WebhookAddresses

log = logging.getLogger(__name__)

Outcome = Literal["delivered", "refused", "forbidden", "failed", "no_text", "expired"]
MAX_CALLS = 64
MAX_CALLS_TO_ONE = 4
"""How many calls to one receiver may be under way, so that one that hangs leaves room for the others."""
RESULT_CHECK_S = 5.0
"""How often the result of a job is looked for although nothing told that it is there."""
MAX_LAGS = 3
"""A replica that lags behind may not know a job for a moment."""
BACK_OFF_FACTOR = 5.0
MAX_PAUSE_S = 60.0
TRY_AGAIN_STATUSES = frozenset({408, 425, 429})

Show = Callable[[KeptGroup, ChatResult], dict[str, Any] | None]


class WebhookForbidden(Exception):  # noqa: N818 - a decision, not a failure
    """A webhook's name stands for an address that may not be called."""


class WebhookUnreachable(Exception):  # noqa: N818 - a state, not a failure
    """A webhook did not answer in time, or not as a web server does."""


class WebhookCaller(Protocol):
    """The way to the receivers."""

    async def post(self, url: str, body: bytes) -> int:
        """Sends JSON, and returns the status of the answer; raises WebhookForbidden or WebhookUnreachable."""
        ...


class WebhookQueue(Protocol):
    """The webhooks that are to be called, which all edges share."""

    async def add(self, task: WebhookTask) -> None:
        """Keeps a webhook until it was called; raises CallboardError (`queue_full`, `bus_unavailable`)."""
        ...

    def news(self, job_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set whenever a result of a job was stored."""
        ...


@dataclass(slots=True)
class _Receiver:
    """Who may be called at the moment, by name; kept while anybody waits for it."""

    users: int = 0
    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_CALLS_TO_ONE))


class Webhooks:
    """Takes in the webhooks of requests, and calls them.

    `count` is told what became of each. A protocol that takes webhooks says by `shown_by` how it shows a text.
    """

    def __init__(
        self,
        settings: WebhooksSection,
        queue: WebhookQueue,
        caller: WebhookCaller,
        kept: KeptJobs,
        results: ResultStore,
        count: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._caller = caller
        self._kept = kept
        self._results = results
        self._count = count
        self._addresses = WebhookAddresses(settings)
        self._shown: dict[str, Show] = {}
        self._receivers: dict[str, _Receiver] = {}
        self._free = asyncio.Semaphore(MAX_CALLS)

    def shown_by(self, protocol: str, show: Show) -> None:
        """Has the texts of a protocol shown by a function, which returns None for what is no text."""
        self._shown[protocol] = show

    def fault(self, url: str) -> str | None:
        """What is wrong with a webhook's URL, or None."""
        return self._addresses.fault(url)

    async def add(self, protocol: str, name: str, job_id: str) -> None:
        """Has the webhook of a kept request called with the text of one of its jobs.

        Raises:
            CallboardError: too many wait, or the bus does not answer.
        """
        await self._queue.add(WebhookTask(job_id=job_id, name=name, protocol=protocol))

    async def call(self, task: WebhookTask) -> None:
        """Waits for a text and calls its webhook until it answers, or has failed too often."""
        try:
            async with asyncio.timeout(RESULT_LIFE_S):
                outcome = await self._outcome(task)
        except TimeoutError:
            outcome = "expired"
        if outcome != "delivered":
            log.info("webhook_not_delivered", extra={"request_id": task.job_id, "outcome": outcome})
        self._count(outcome)

    async def _outcome(self, task: WebhookTask) -> Outcome:
        show = self._shown.get(task.protocol)
        result = await self._result(task.job_id)
        group = await self._group(task.name)
        if result is None or group is None or group.webhook is None or show is None:
            return "expired"
        shown = show(group, result)
        if shown is None:
            return "no_text"
        body = json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        return await self._delivered(group.webhook, body)

    async def _delivered(self, url: str, body: bytes) -> Outcome:
        for attempt in range(self._settings.attempts):
            if attempt:
                await asyncio.sleep(min(MAX_PAUSE_S, BACK_OFF_FACTOR ** (attempt - 1)))
            try:
                async with self._turn(urlsplit(url).netloc):
                    status = await self._caller.post(url, body)
            except WebhookForbidden:
                return "forbidden"
            except WebhookUnreachable:
                continue
            if 200 <= status < 300:
                return "delivered"
            if status < 500 and status not in TRY_AGAIN_STATUSES:
                return "refused"
        return "failed"

    async def _result(self, job_id: str) -> ChatResult | None:
        """What became of a job, once it has ended; None where nothing is known of it any more."""
        lags = 0
        async with self._queue.news(job_id) as news:
            while True:
                news.clear()
                try:
                    job = await self._kept.find(job_id)
                    if job.state == "done":
                        return job.result
                except CallboardError as error:
                    lags += error.info.code is ErrorCode.NOT_FOUND
                    if lags >= MAX_LAGS:
                        return None
                try:
                    await asyncio.wait_for(news.wait(), RESULT_CHECK_S)
                except TimeoutError:
                    continue

    async def _group(self, name: str) -> KeptGroup | None:
        while True:
            try:
                return await self._results.group(name)
            except CallboardError:
                await asyncio.sleep(RESULT_CHECK_S)

    @asynccontextmanager
    async def _turn(self, receiver: str) -> AsyncGenerator[None]:
        one = self._receivers.setdefault(receiver, _Receiver())
        one.users += 1
        try:
            async with one.free, self._free:
                yield
        finally:
            one.users -= 1
            if not one.users:
                del self._receivers[receiver]
