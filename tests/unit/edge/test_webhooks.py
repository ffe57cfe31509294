"""Webhooks: where they may lead, how they are called, and what becomes of each."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.webhooks import WebhooksSection, WebhookTask
from callboard_edge.backends import webhook_queue
from callboard_edge.backends.fake_webhooks import FakeWebhookCaller, FakeWebhookQueue
from callboard_edge.backends.webhook_caller import HttpWebhookCaller
from callboard_edge.backends.webhook_queue import WebhookFeed
from callboard_edge.domain import kept_jobs, webhooks
from callboard_edge.domain.webhook_addresses import WebhookAddresses, is_public
from callboard_edge.domain.webhooks import MAX_CALLS_TO_ONE, WebhookForbidden, WebhookUnreachable
from callboard_kit.bus import Bus
from callboard_kit.payload_cipher import PayloadUnreadable
from tests.support.certificates import Authority
from tests.unit.edge.harness import EdgeHarness, running
from tests.unit.edge.test_horde import ANONYMOUS, NO_LIMITS, SUBMIT, ask, body, finish, state, submitted

pytestmark = pytest.mark.unit

HOOK = "https://receiver.example/hook?secret=7"
ON = {"horde": {**NO_LIMITS["horde"], "webhooks": {"enabled": True}}}


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("172.31.0.1", False),
        ("192.0.0.8", False),
        ("192.168.1.1", False),
        ("198.18.0.1", False),
        ("203.0.113.9", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.215.14", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::a00:1", False),
        ("100::1", False),
        ("2001:0:7f00:1::", False),
        ("2001:db8::1", False),
        ("2002:7f00:1::", False),
        ("3fff::1", False),
        ("fc00::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("2606:2800::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_only_addresses_of_single_machines_on_the_internet_are_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public
    assert WebhookAddresses(WebhooksSection()).allows(address) is public


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (HOOK, None),
        ("https://93.184.215.14:443/", None),
        ("https://[2606:2800::1]/x", None),
        ("http://receiver.example/", "https"),
        ("ftp://receiver.example/", "plain address"),
        ("https://", "plain address"),
        ("https:receiver.example", "plain address"),
        ("https://ada:word@receiver.example/", "plain address"),
        ("https://receiver.example\\@10.0.0.1/", "plain address"),
        ("https://receiver.example/a b", "plain address"),
        ("https://receiver.example/\r\nHost: x", "plain address"),
        ("https://r%65ceiver.example/", "plain address"),
        ("https://①②⑦.⓪.⓪.①/", "plain address"),
        ("https://receiver.example/" + "x" * 2000, "plain address"),
        ("https://receiver.example:22/", "ports"),
        ("https://receiver.example:99999/", "ports"),
        ("https://10.0.0.1/", "public"),
        ("https://127.1/", "public"),
        ("https://2130706433/", "public"),
        ("https://127.0.0.1./", "public"),
        ("https://[::1]/", "public"),
        ("https://[::ffff:10.0.0.1]/", "public"),
        ("https://[1:2]/", "public"),
    ],
)
def test_a_url_that_could_lead_elsewhere_is_refused_when_it_is_named(url: str, word: str | None) -> None:
    fault = WebhookAddresses(WebhooksSection()).fault(url)
    assert fault is None if word is None else word in (fault or "")


def test_a_site_may_allow_http_ports_and_networks_of_its_own() -> None:
    settings = WebhooksSection.model_validate(
        {"allow_http": True, "ports": [8000], "allowed_networks": ["10.0.0.0/8", "fd00::/8"]}
    )
    rules = WebhookAddresses(settings)
    assert rules.fault("http://10.1.1.1:8000/") is None
    assert rules.fault("http://[fd00::1]:8000/") is None
    assert "ports" in (rules.fault("https://10.1.1.1/") or "")
    assert "public" in (rules.fault("http://192.168.0.1:8000/") or "")


class Receiver:
    """A web server on loopback, and a caller that may reach it by any name."""

    def __init__(self, port: int, requests: list[web.Request]) -> None:
        self.port = port
        self.requests = requests

    def caller(self, **over: Any) -> HttpWebhookCaller:
        """A caller that may call loopback addresses, unless told otherwise."""
        table = {"allow_http": True, "allowed_networks": ["127.0.0.0/8"], "timeout_s": 5, **over}
        return HttpWebhookCaller(WebhooksSection.model_validate(table))


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    requests: list[web.Request] = []

    async def taken(request: web.Request) -> web.StreamResponse:
        await request.read()
        requests.append(request)
        if request.path == "/moved":
            raise web.HTTPTemporaryRedirect("/elsewhere")
        if request.path == "/endless":
            answer = web.StreamResponse()
            await answer.prepare(request)
            try:
                while True:
                    await answer.write(b"x" * 65_536)
            except ConnectionError:
                return answer
        if request.path == "/silent":
            await asyncio.sleep(30)
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", taken)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield Receiver(runner.addresses[0][1], requests)
    await runner.cleanup()


def names(monkeypatch: pytest.MonkeyPatch, **known: list[str]) -> None:
    """Has names stand for addresses; `_` in a name is a dot."""
    real = socket.getaddrinfo

    def looked_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        addresses = known.get(str(host).replace(".", "_"), [host])
        return [found for address in addresses for found in real(address, port, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)


async def test_a_call_goes_to_the_checked_address_under_its_name_past_any_proxy(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, hook_example=["127.0.0.1"])
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    caller = receiver.caller()
    try:
        assert await caller.post(f"http://hook.example:{receiver.port}/a?b=%20c", b'{"x":1}') == 200
        (request,) = receiver.requests
        assert (request.method, request.host, request.raw_path) == (
            "POST",
            f"hook.example:{receiver.port}",
            "/a?b=%20c",
        )
        assert (await request.json(), request.content_type) == ({"x": 1}, "application/json")
        assert await caller.post(f"http://hook.example:{receiver.port}/moved", b"{}") == 307
        assert await caller.post(f"http://hook.example:{receiver.port}/endless", b"{}") == 200
        assert [request.path for request in receiver.requests] == ["/a", "/moved", "/endless"]
    finally:
        await caller.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]", "two.example"])
async def test_no_way_of_writing_it_leads_to_an_address_that_is_not_allowed(
    host: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, two_example=["93.184.215.14", "127.0.0.1"])
    caller = receiver.caller(allowed_networks=[])
    try:
        # The HTTP client itself refuses some that are written unusually.
        with pytest.raises((WebhookForbidden, WebhookUnreachable)):
            await caller.post(f"http://{host}:{receiver.port}/", b"{}")
    finally:
        await caller.close()
    assert receiver.requests == []


async def test_what_does_not_answer_is_given_up_in_time(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, nobody_example=[])
    caller = receiver.caller(timeout_s=0.2)
    try:
        for url in (f"http://127.0.0.1:{receiver.port}/silent", "http://127.0.0.1:9/", "http://nobody.example/"):
            with pytest.raises(WebhookUnreachable):
                await caller.post(url, b"{}")
    finally:
        await caller.close()


async def test_tls_names_the_receiver_and_takes_no_certificate_that_nobody_vouches_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, hook_example=["127.0.0.1"])
    asked: list[str | None] = []
    folder = Authority().issue(tmp_path, "hook.example")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    tls.sni_callback = lambda _socket, name, _context: asked.append(name)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    caller = HttpWebhookCaller(WebhooksSection.model_validate({"allowed_networks": ["127.0.0.0/8"]}))
    try:
        with pytest.raises(WebhookUnreachable):
            await caller.post(f"https://hook.example:{port}/", b"{}")
    finally:
        await caller.close()
        server.close()
        await server.wait_closed()
    assert asked == ["hook.example"]


@pytest.fixture
async def caller() -> FakeWebhookCaller:
    return FakeWebhookCaller()


@pytest.fixture
async def queue() -> FakeWebhookQueue:
    return FakeWebhookQueue()


@pytest.fixture
async def edge(
    queue: FakeWebhookQueue, caller: FakeWebhookCaller, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[EdgeHarness]:
    monkeypatch.setattr(webhooks, "RESULT_CHECK_S", 0.01)
    monkeypatch.setattr(webhooks, "BACK_OFF_FACTOR", 0.0)
    monkeypatch.setattr(webhooks, "MAX_PAUSE_S", 0.0)
    monkeypatch.setattr(kept_jobs, "CANCEL_WAIT_S", 0.05)
    monkeypatch.setattr(kept_jobs, "CANCEL_POLL_S", 0.01)
    async with running(ON, webhook_queue=queue, webhook_caller=caller) as one:
        yield one


async def called(edge: EdgeHarness, queue: FakeWebhookQueue) -> None:
    """Does what a feed does with the webhooks that are queued."""
    assert edge.webhooks is not None
    tasks, queue.tasks = queue.tasks, []
    async with asyncio.timeout(10):
        await asyncio.gather(*map(edge.webhooks.call, tasks))


def outcomes(edge: EdgeHarness) -> dict[str, float]:
    """How many webhooks came to which end."""
    ends = ("delivered", "refused", "forbidden", "failed", "no_text", "expired")
    found = {end: edge.figure("callboard_edge_webhooks_total", outcome=end) for end in ends}
    return {end: count for end, count in found.items() if count}


async def test_each_text_of_a_request_is_posted_as_the_status_shows_it(
    edge: EdgeHarness, queue: FakeWebhookQueue, caller: FakeWebhookCaller
) -> None:
    request_id = await submitted(edge, webhook=HOOK, params={"n": 2, "stop_sequence": ["\n"]})
    jobs = [await edge.jobs.next_chat() for _ in range(2)]
    assert {task.job_id for task in queue.tasks} == {job.request_id for job in jobs}
    assert "receiver.example" not in "".join(task.model_dump_json() for task in queue.tasks)
    tasks = asyncio.ensure_future(called(edge, queue))
    finish(edge, jobs[0], " sat in the oak.", stop_sequence="\n")
    while not caller.calls:
        await asyncio.sleep(0.01)
    assert (await state(edge, request_id))["done"] is False
    finish(edge, jobs[1], " flew.")
    queue.waiting[jobs[1].request_id].set()
    await tasks
    sent = {told.pop("id"): told for told in (json.loads(data) for _, data in caller.calls)}
    shown = (await state(edge, request_id))["generations"]
    assert [sent[job.request_id] for job in jobs] == [{**one, "request": request_id, "kudos": 0} for one in shown]
    assert sent[jobs[0].request_id]["text"] == " sat in the oak.\n"
    assert {url for url, _ in caller.calls} == {HOOK}
    assert outcomes(edge) == {"delivered": 2}


@pytest.mark.parametrize(
    ("answers", "calls", "outcome"),
    [
        ([500, WebhookUnreachable(), 429, 204], 4, "delivered"),
        ([500] * 9, 4, "failed"),
        ([404], 1, "refused"),
        ([302], 1, "refused"),
        ([WebhookForbidden()], 1, "forbidden"),
    ],
)
async def test_a_receiver_that_fails_is_tried_again_and_one_that_refuses_is_not(
    answers: list[Any],
    calls: int,
    outcome: str,
    edge: EdgeHarness,
    queue: FakeWebhookQueue,
    caller: FakeWebhookCaller,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caller.answers = answers
    await submitted(edge, webhook=HOOK)
    finish(edge, await edge.jobs.next_chat(), " sat in the oak.")
    with caplog.at_level("DEBUG"):
        await called(edge, queue)
    assert len(caller.calls) == calls
    assert outcomes(edge) == {outcome: 1}
    written = " ".join(str(vars(record)) for record in caplog.records if record.name.startswith("callboard"))
    assert "receiver.example" not in written
    assert "oak" not in written


async def test_nothing_is_posted_of_what_failed_was_cancelled_or_is_gone(
    edge: EdgeHarness, queue: FakeWebhookQueue, caller: FakeWebhookCaller
) -> None:
    failed = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="broken")
    for end in ({"reason": "error", "error": failed}, {"reason": "cancelled"}):
        await submitted(edge, webhook=HOOK)
        finish(edge, await edge.jobs.next_chat(), " sat", **end)
    await called(edge, queue)
    await submitted(edge, webhook=HOOK)
    edge.results.tickets.clear()
    queue.tasks.append(WebhookTask(job_id="unknown", name="horde x", protocol="horde"))
    await called(edge, queue)
    assert caller.calls == []
    assert outcomes(edge) == {"no_text": 2, "expired": 2}


async def test_one_receiver_that_hangs_leaves_room_for_others(
    edge: EdgeHarness, queue: FakeWebhookQueue, caller: FakeWebhookCaller
) -> None:
    caller.hold = asyncio.Event()
    await submitted(edge, webhook=HOOK, params={"n": MAX_CALLS_TO_ONE + 3})
    for _ in range(MAX_CALLS_TO_ONE + 3):
        finish(edge, await edge.jobs.next_chat(), " sat.")
    await submitted(edge, webhook="https://other.example/")
    finish(edge, await edge.jobs.next_chat(), " sat.")
    tasks = asyncio.ensure_future(called(edge, queue))
    async with asyncio.timeout(10):
        while caller.under_way <= MAX_CALLS_TO_ONE:
            await asyncio.sleep(0.01)
    caller.hold.set()
    await tasks
    assert caller.most_under_way == MAX_CALLS_TO_ONE + 1
    assert outcomes(edge) == {"delivered": MAX_CALLS_TO_ONE + 4}


async def test_a_webhook_that_cannot_be_kept_refuses_the_request_and_leaves_no_job(
    edge: EdgeHarness, queue: FakeWebhookQueue
) -> None:
    queue.failure = CallboardError(ErrorCode.QUEUE_FULL, "Too many webhooks.", retry_after_s=10)
    status, answer = await ask(edge, "POST", SUBMIT, body(webhook=HOOK), **ANONYMOUS)
    assert (status, answer["rc"]) == (429, "TooManyPrompts")
    assert not edge.quota.held
    for url in ("http://receiver.example/", "https://10.0.0.1/", "https://receiver.example:22/"):
        status, answer = await ask(edge, "POST", SUBMIT, body(webhook=url), **ANONYMOUS)
        assert (status, answer["rc"], [*answer["errors"]]) == (400, "BadRequest", ["webhook"])


class FeedBus:
    """A bus that hands out one message, whose payload is not encrypted, and notes what it is answered."""

    def __init__(self) -> None:
        self.cipher = self
        self.connected = True
        self.connection = self
        self.answers: list[bytes] = []
        self.pulled = asyncio.Event()
        self.deliver: Any = None

    async def decrypt(self, payload: bytes) -> bytes:
        if payload == b"erased":
            raise PayloadUnreadable
        return payload

    def on_reconnect(self, _callback: Any) -> None:
        return

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe_now(self, _subject: str, on_message: Any) -> object:
        self.deliver = on_message
        return object()

    async def unsubscribe(self, _subscription: object) -> None:
        return

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        if reply:
            self.pulled.set()
        else:
            self.send(subject, payload)

    def send(self, subject: str, payload: bytes) -> None:
        assert subject == "ack"
        self.answers.append(payload)


TASK = WebhookTask(job_id="r1", name="horde x", protocol="horde")


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> FeedBus:
    monkeypatch.setattr(webhook_queue, "ACK_WAIT_S", 0.03)
    monkeypatch.setattr(webhook_queue, "STOP_WAIT_S", 0.02)
    return FeedBus()


async def fed(bus: FeedBus, feed: WebhookFeed, payload: bytes) -> "asyncio.Task[None]":
    """Has a feed take a message, and returns the feed's task."""
    running = asyncio.ensure_future(feed.run())
    await bus.pulled.wait()
    message = SimpleNamespace(data=payload, reply="ack", subject="webhook.r1", headers=None)
    bus.deliver(message)
    return running


async def answered(bus: FeedBus, last: bytes) -> list[bytes]:
    """Everything that a message was answered, once the last answer is there."""
    async with asyncio.timeout(10):
        while last not in bus.answers:
            await asyncio.sleep(0.005)
    return bus.answers


async def test_a_feed_reports_while_a_text_is_awaited_and_hands_back_what_waits_when_it_stops(bus: FeedBus) -> None:
    done, taken = asyncio.Event(), list[WebhookTask]()

    async def call(task: WebhookTask) -> None:
        taken.append(task)
        await done.wait()

    feed = WebhookFeed(cast("Bus", bus), call, 10)
    running = await fed(bus, feed, TASK.encoded())
    await answered(bus, b"+WPI")
    assert (taken, feed.handling()) == ([TASK], 1)
    done.set()
    assert (await answered(bus, b"+ACK"))[-1] == b"+ACK"
    done.clear()
    bus.deliver(SimpleNamespace(data=TASK.encoded(), reply="ack", subject="webhook.r1", headers=None))
    while len(taken) < 2:
        await asyncio.sleep(0)
    await feed.drain(5)
    assert (await answered(bus, b"-NAK"))[-1] == b"-NAK"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("payload", [b"erased", b"{}", b"\xff"])
async def test_a_webhook_that_cannot_be_read_any_more_is_dropped(payload: bytes, bus: FeedBus) -> None:
    async def call(_task: WebhookTask) -> None:
        raise AssertionError

    feed = WebhookFeed(cast("Bus", bus), call, 10)
    running = await fed(bus, feed, payload)
    assert await answered(bus, b"+TERM") == [b"+TERM"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
