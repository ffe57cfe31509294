"""A real bus with real quota processes, and the requests of an edge and a worker to them."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from callboard_contracts import subjects
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.quota import (
    AuditEvent,
    Hold,
    ReleaseReply,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    UsageEvent,
    Work,
    WorkKind,
)
from callboard_contracts.streams import AUDIT, LEASE, QUOTA, SETTLEMENT, USAGE
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from callboard_kit.stream_reads import read_subject
from callboard_quota.backends.jetstream_ledger import counter_value
from tests.support.deployment import store_section
from tests.support.fork_server import ForkedChild
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.processes import Service, Table, merged, toml_text

MODEL = "owl"
ADDRESS = "192.0.2.7"
WAIT_S = 15.0
COMMAND_TIMEOUT_S = 30.0
Counters = dict[tuple[str, str], int]

BASE: Table = {
    "quota": {
        "tiers": {"anonymous": {"tokens_per_day": 1_000_000}, "standard": {"tokens_per_day": 1_000_000}},
        "reap_interval_s": 0.2,
        "lease_margin_s": 0.5,
    }
}


class QuotaDeployment:
    """One bus and any number of quota processes; the methods block, so tests call them in a thread."""

    def __init__(
        self, folder: Path, config: Table | None = None, nats: NatsServer | None = None, *, forked: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.nats = nats or NatsServer(folder / "nats")
        self.table = merged(BASE, config or {})
        self.quotas: list[Service] = []
        self._forked = forked
        self._names = itertools.count()

    def start(self, quotas: int = 1) -> None:
        """Starts the bus, declares the streams and starts the processes."""
        self.nats.start()
        self.table = merged(self.table, {"nats": {"url": self.nats.url, **store_section(self.nats)}})
        asyncio.run(self._apply())
        started = [self.add() for _ in range(quotas)]
        for service in started:
            service.wait_ready()

    def add(self, **quota: Any) -> Service:
        """Starts one more process without waiting until it is ready."""
        port = free_port()
        table = merged(self.table, {"quota": {"metrics_port": port, **quota}})
        name = f"quota{next(self._names)}"
        service = Service(name, "callboard_quota", table, self.folder, health_port=port, forked=self._forked)
        service.start()
        self.quotas.append(service)
        return service

    def stop(self) -> None:
        """Stops everything in order; raises AssertionError when a process ended badly or logged a failure."""
        bad: list[str] = []
        for service in self.quotas:
            if service.alive:
                code = service.running.stop()
                events = [line for line in service.logs() if line.get("level") == "error" or "text" in line]
                if code != 0 or events:
                    bad.append(f"{service.name} ended with {code}: {events}")
        self.nats.stop()
        assert not bad, "\n".join(bad)

    def abandon(self) -> None:
        """Kills whatever still runs."""
        for service in self.quotas:
            if service.child:
                service.child.kill()
        self.nats.kill()

    def command(self, *arguments: str) -> str:
        """Runs a `callboard` command and returns what it printed; raises AssertionError when it fails."""
        config = self.folder / "command.toml"
        config.write_text(toml_text(self.table), encoding="utf-8")
        log = self.folder / f"command{next(self._names)}.log"
        child = ForkedChild("callboard_cli", ["--config", str(config), *arguments], log)
        code = child.wait(COMMAND_TIMEOUT_S)
        assert code == 0, child.output()
        return child.output()

    @asynccontextmanager
    async def bus(self) -> AsyncGenerator[Bus]:
        """A connection of the test's own."""
        bus = await Bus.connect(NatsSection(url=self.nats.url), "test", lambda: None)
        try:
            # The first request starts the client's own task for answers, which is not the test's to clean up.
            await bus.api("INFO", {})
            yield bus
        finally:
            await bus.close()

    async def _apply(self) -> None:
        bus = await Bus.connect(NatsSection(url=self.nats.url), "apply", lambda: None)
        try:
            await apply_streams(bus, Config.model_validate(self.table))
        finally:
            await bus.close()


def request(name: str, tokens: int = 100, **fields: Any) -> ReserveRequest:
    """A request for a hold, from the usual address unless a key or another address is given."""
    if "key_digest" not in fields:
        fields.setdefault("address", ADDRESS)
    fields = {"kind": "chat", "model": MODEL, "life_s": 60.0, **fields}
    return ReserveRequest(request_id=name, work=Work(prompt_tokens=tokens), **fields)


async def reserve(bus: Bus, wanted: ReserveRequest, timeout_s: float = 10.0) -> ReserveReply:
    """Asks for a hold as the edge does."""
    answer = await bus.request(subjects.QUOTA_RESERVE, wanted.model_dump_json().encode(), timeout_s)
    return ReserveReply.model_validate_json(answer)


async def hold_of(bus: Bus, wanted: ReserveRequest) -> Hold:
    """Asks for a hold that must be granted."""
    reply = await reserve(bus, wanted)
    assert reply.hold is not None, reply
    return reply.hold


async def release(bus: Bus, hold: Hold) -> bool:
    """Gives a hold back as the edge does; says whether that settled it."""
    body = ReleaseRequest(hold=hold).model_dump_json().encode()
    return ReleaseReply.model_validate_json(await bus.request(subjects.QUOTA_RELEASE, body, 10)).settled


def event_of(hold: Hold, tokens: int, **fields: Any) -> UsageEvent:
    """What a worker reports of a job that used so many tokens."""
    fields = {"work": Work(prompt_tokens=tokens), "outcome": "stop", "at": time.time(), **fields}
    return UsageEvent(
        request_id=hold.request_id,
        tenant=hold.tenant,
        kind=hold.kind,
        model=hold.model,
        pool="main",
        hold=hold,
        **fields,
    )


async def report(bus: Bus, event: UsageEvent, msg_id: str | None = None, timeout_s: float = 20.0) -> None:
    """Publishes a usage event as a worker does."""
    msg_id = msg_id or f"{event.request_id}.{event.kind}"
    await bus.publish_stored(subjects.usage(event.tenant), event.model_dump_json().encode(), msg_id, timeout_s)


async def settled(bus: Bus) -> None:
    """Returns when every usage event has been dealt with."""

    async def idle() -> bool:
        info = await bus.api(f"CONSUMER.INFO.{USAGE}.{SETTLEMENT}", {})
        return info["num_pending"] == 0 and info["num_ack_pending"] == 0

    await eventually(idle, "every usage event is settled")


async def no_leases(bus: Bus) -> None:
    """Returns when no hold is open any more."""

    async def none() -> bool:
        return not [message for message in await read_subject(bus, LEASE, "lease.*.*", limit=100_000) if message.data]

    await eventually(none, "no lease is left")


async def eventually(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
    """Awaits a condition; raises TimeoutError that says what did not come."""
    until = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > until:
            raise TimeoutError(what)
        await asyncio.sleep(0.05)


async def counters(bus: Bus) -> Counters:
    """The sum of every tenant's metric over all buckets."""
    found = await read_subject(bus, QUOTA, "q.used.>", limit=2_000_000, timeout_s=10)
    newest = {message.subject: counter_value(message) for message in found}
    sums: Counters = {}
    for subject, value in newest.items():
        _, _, tenant, metric, _ = subject.split(".")
        sums[tenant, metric] = sums.get((tenant, metric), 0) + value
    return sums


async def audit(bus: Bus, request_id: str) -> list[AuditEvent]:
    """The audit events of a request."""
    messages = await read_subject(bus, AUDIT, subjects.audit(request_id))
    return [AuditEvent.model_validate_json(message.data) for message in messages]


def other_kind(kind: WorkKind) -> WorkKind:
    """The kind of work that the given one is not."""
    return "speech" if kind == "chat" else "chat"
