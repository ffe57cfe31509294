"""`callboard status`, `callboard drain` and `callboard dlq` on real workers with real jobs."""

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from callboard_admin.dead_letters import OPERATOR
from callboard_cli.failures import ExitCode
from callboard_contracts import subjects
from callboard_contracts.chat import ChatJob, ChatMessage, ChatRequest
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.quota import UsageEvent
from callboard_contracts.streams import BUCKET_WORKERS, CHAT, DLQ, KEYS, USAGE
from callboard_contracts.workers import WorkerInfo, worker_entry
from callboard_kit.bucket import Bucket
from callboard_kit.stream_reads import read_subject
from callboard_worker.dead_letters import DeadLetters
from tests.integration.chat.edge_stub import EDGE, MODEL, POOL, EdgeStub
from tests.integration.chat.scripted_worker import SCRIPT
from tests.support.children import Child
from tests.support.commands import run_command
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.processes import Service, Table, toml_text

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

TOKENS = 10
SECRET = "the client's own words"


class Site:
    """Workers of one pool of two slots, and commands on their bus."""

    def __init__(self, server: NatsServer, folder: Path) -> None:
        self._folder = folder
        self._table: Table = {
            "nats": {"url": server.url},
            "chat": {
                "pools": {POOL: {"backend": "fake", "slots": 2}, "empty": {"backend": "fake"}},
                "models": {MODEL: {"pool": POOL}},
                "drain_timeout_s": 60,
            },
        }
        self.services: list[Service] = []

    async def add(self) -> Service:
        port = free_port()
        pools = {**self._table["chat"]["pools"], POOL: {"backend": "fake", "slots": 2, "metrics_port": port}}
        table = {**self._table, "chat": {**self._table["chat"], "pools": pools}}
        module, name = "tests.integration.chat.scripted_worker", f"chat-{len(self.services)}"
        service = Service(name, module, table, self._folder, health_port=port, arguments=("--pool", POOL), forked=True)
        self.services.append(service)
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_ready)
        return service

    async def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return await run_command(self._folder, self._table, *words)

    def begin(self, *words: str) -> Child:
        """Starts a command in a process of its own, beside which others run."""
        config = self._folder / "beside.toml"
        config.write_text(toml_text(self._table), encoding="utf-8")
        argv = [sys.executable, "-m", "callboard_cli", "--config", str(config), *words]
        return Child(argv, self._folder / "beside.log")

    async def status(self) -> dict[str, Any]:
        done = await self.command("status", "--json")
        assert done.returncode == ExitCode.OK, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def site(server: NatsServer, tmp_path: Path) -> Generator[Site]:
    site = Site(server, tmp_path)
    yield site
    for service in site.services:
        if service.alive:
            service.running.kill()


async def worker_ids(edge_stub: EdgeStub) -> list[str]:
    return [entry.key.rsplit(".", 1)[1] for entry in await Bucket(edge_stub.bus, BUCKET_WORKERS).list("worker.>")]


async def test_status_shows_jobs_and_drain_lets_them_finish(edge_stub: EdgeStub, site: Site, tmp_path: Path) -> None:
    worker = await site.add()
    go_on = tmp_path / "go-on"
    held = ({"role": "user", "content": f"until {go_on}"},)
    running = [await edge_stub.post(limit=TOKENS, life_s=200, messages=held) for _ in range(2)]
    await edge_stub.until(lambda: all(edge_stub.of(job) for job in running))
    waiting = await edge_stub.post(limit=TOKENS, life_s=200, job_class="batch")
    # A worker says every five seconds how it stands.
    async with asyncio.timeout(60):
        while (status := await site.status())["pools"][0]["ready"] == 0:
            await asyncio.sleep(0.2)
    pool, empty = status["pools"]
    assert (pool["service"], pool["pool"], pool["workers"], pool["ready"], pool["slots"]) == ("chat", POOL, 1, 1, 2)
    assert (pool["running"], pool["waiting_live"], pool["waiting_batch"]) == (2, 0, 1)
    assert pool["oldest_job_s"] >= pool["oldest_waiting_s"] > 0
    # What is only in the command's configuration is missing on the bus.
    assert (empty["workers"], empty["oldest_job_s"]) == (0, None)
    missing = {one["name"] for one in status["consumers"] if one["missing"]}
    assert missing == {"chat-empty-live", "chat-empty-batch"}
    chat = next(one for one in status["streams"] if one["name"] == "CHAT")
    assert chat["messages"] == 3
    assert status["holds"]["open"] == 0
    text = (await site.command("status")).stdout
    assert f"chat/{POOL}" in text
    assert "missing" in text

    ordered = await asyncio.to_thread(site.begin, "drain", f"chat/{POOL}")
    async with asyncio.timeout(60):
        while (await site.status())["pools"][0]["draining"] == 0:
            await asyncio.sleep(0.2)
    assert worker.alive
    go_on.touch()
    assert await asyncio.to_thread(ordered.wait, 60) == ExitCode.OK, ordered.output()
    assert ordered.output().splitlines()[-1].endswith("ended")
    assert await asyncio.to_thread(worker.running.wait) == 0
    for job in running:
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is None
        assert edge_stub.text(job) == "".join(SCRIPT.tokens[:TOKENS])
    # The job that waited was not begun; another worker takes it at its first delivery.
    await site.add()
    last = await edge_stub.end(waiting, timeout_s=40)
    assert last.attempt == 1


async def test_drain_of_one_worker_leaves_the_others(edge_stub: EdgeStub, site: Site) -> None:
    first, second = await site.add(), await site.add()
    ids = await worker_ids(edge_stub)
    assert len(ids) == 2
    done = await site.command("drain", ids[0][:10])
    assert done.returncode == ExitCode.OK, done.stderr
    assert await worker_ids(edge_stub) == [ids[1]]
    assert [first.alive, second.alive].count(True) == 1
    for target in ("chat/nowhere", ids[1][:3]):
        refused = await site.command("drain", ids[1], target)
        assert refused.returncode == ExitCode.FAILED
        assert f"{target!r} names no worker" in refused.stderr
    assert await worker_ids(edge_stub) == [ids[1]]
    left = first if first.alive else second
    stopped = await site.command("drain", "--all", "--no-wait")
    assert stopped.returncode == ExitCode.OK
    assert await asyncio.to_thread(left.running.wait) == 0


async def test_status_names_what_is_missing_and_drain_who_does_not_answer(edge_stub: EdgeStub, site: Site) -> None:
    gone = WorkerInfo(id="0123456789abcdef", service="chat", pool=POOL, backend="fake", slots=2, at=time.time())
    await Bucket(edge_stub.bus, BUCKET_WORKERS).put(worker_entry("chat", POOL, gone.id), gone.encoded(), None)
    unanswered = await site.command("drain", "--all")
    assert unanswered.returncode == ExitCode.FAILED
    assert unanswered.stdout == f"chat/{POOL}  {gone.id[:12]}  no answer\n"
    names = [name for name in (await edge_stub.bus.api("STREAM.NAMES", {}))["streams"] if name != CHAT]
    for name in names:
        await edge_stub.bus.api(f"STREAM.DELETE.{name}", {})
    status = await site.status()
    assert {one["name"] for one in status["streams"] if one["missing"]} == set(names)
    assert (status["workers"], status["holds"]["open"], status["dead_letters"]) == ([], 0, 0)


async def buried(edge_stub: EdgeStub, words: str, *, encrypted: bool = True) -> ChatJob:
    """A job that was given up: answered for, and kept as a dead letter."""
    now = time.time()
    job = ChatJob(
        version=JOB_VERSION,
        request_id=uuid.uuid4().hex,
        edge=EDGE,
        tenant="t1",
        request=ChatRequest(model=MODEL, messages=(ChatMessage(role="user", content=words),), max_output_tokens=TOKENS),
        created_at=now - 400,
        deadline_at=now - 100,
    )
    data = job.compact()
    seq = await edge_stub.post_raw(await edge_stub.bus.cipher.encrypt(data) if encrypted else data, job.request_id)

    async def answer(_data: bytes) -> None:
        pass

    await DeadLetters(edge_stub.bus, CHAT, answer).set_aside(seq, 5, answer)
    return job


async def test_dead_letters_are_shown_without_content_retried_and_dropped(edge_stub: EdgeStub, site: Site) -> None:
    first, plain = await buried(edge_stub, SECRET), await buried(edge_stub, SECRET, encrypted=False)
    listed = await site.command("dlq", "list", "--json")
    assert listed.returncode == ExitCode.OK, listed.stderr
    letters = json.loads(listed.stdout)
    assert [(one["request_id"], one["content"]) for one in letters] == [
        (first.request_id, "kept"),
        (plain.request_id, "erased"),
    ]
    shown = await site.command("dlq", "show", first.request_id)
    assert f"pool: chat/{POOL}" in shown.stdout
    assert SECRET not in listed.stdout + shown.stdout
    for stored in await read_subject(edge_stub.bus, DLQ, ">"):
        assert SECRET.encode() not in stored.data
    with_content = await site.command("dlq", "show", "--content", str(letters[0]["number"]))
    assert SECRET in with_content.stdout
    gone = await site.command("dlq", "show", "--content", plain.request_id)
    assert gone.returncode == ExitCode.FAILED
    assert "nothing of its content is left" in gone.stderr

    await site.add()
    retried = await site.command("dlq", "retry", first.request_id)
    assert retried.returncode == ExitCode.OK, retried.stderr
    assert f"length, {TOKENS} tokens" in retried.stdout
    assert SECRET not in retried.stdout + retried.stderr
    (event,) = [
        UsageEvent.model_validate_json(stored.data)
        for stored in await read_subject(edge_stub.bus, USAGE, subjects.usage(OPERATOR))
    ]
    assert event.request_id in retried.stdout
    assert (event.tenant, event.hold) == (OPERATOR, None)

    # Once the key is erased, what is left cannot be read or run again.
    await edge_stub.bus.api(f"STREAM.PURGE.{KEYS}", {})
    erased = await site.command("dlq", "retry", first.request_id)
    assert erased.returncode == ExitCode.FAILED
    assert "nothing of its content is left" in erased.stderr
    unknown = await site.command("dlq", "drop", "12345")
    assert "'12345' is no dead letter's number or request id" in unknown.stderr
    dropped = await site.command("dlq", "drop", "--before", "0m")
    assert dropped.stderr == "2 dead letters dropped\n"
    assert await read_subject(edge_stub.bus, DLQ, "dlq.>") == []
