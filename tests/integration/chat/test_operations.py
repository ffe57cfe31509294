"""`callboard status` and `callboard drain` on real workers with running jobs."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from callboard_cli.failures import ExitCode
from callboard_contracts.streams import BUCKET_WORKERS
from callboard_kit.bucket import Bucket
from tests.integration.chat.edge_stub import MODEL, POOL, EdgeStub
from tests.integration.chat.scripted_worker import SCRIPT
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.processes import Service, Table, toml_text

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

TOKENS = 10


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
        service = Service(name, module, table, self._folder, health_port=port, arguments=("--pool", POOL))
        self.services.append(service)
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_ready)
        return service

    async def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        config = self._folder / "command.toml"
        config.write_text(toml_text(self._table), encoding="utf-8")
        argv = [sys.executable, "-m", "callboard_cli", "--config", str(config), *words]
        return await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=120, check=False)

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

    ordered = asyncio.ensure_future(site.command("drain", f"chat/{POOL}"))
    async with asyncio.timeout(60):
        while (await site.status())["pools"][0]["draining"] == 0:
            await asyncio.sleep(0.2)
    assert worker.alive
    go_on.touch()
    drained = await ordered
    assert drained.returncode == ExitCode.OK, drained.stderr
    assert drained.stdout.splitlines()[-1].endswith("ended")
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
