"""A whole Callboard on loopback: a bus, its streams, and any number of each service, as real processes."""

import asyncio
import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from callboard_cli.nats.users import write_users
from callboard_contracts.config import NatsSection
from callboard_contracts.permissions import USERS
from callboard_contracts.quota import UsageEvent
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import StoredMessage, read_subject
from tests.support.children import Child, wait_until
from tests.support.cluster import Cluster, Node
from tests.support.fork_server import run_forked
from tests.support.nats_server import NatsServer, Sync
from tests.support.ports import free_port
from tests.support.processes import Service, Table, merged

CHAT_POOL = "main"
TTS_POOL = "booth"
CHAT_MODEL = "owl"
SPEECH_MODEL = "parrot"
HEARING_MODEL = "ear"
VOICES = ("tenor", "alto")
JOB_QUEUES = ("CHAT", "TTS", "STT")
QUEUE_STREAMS = (*JOB_QUEUES, "LEASE")
COMMAND_TIMEOUT_S = 60.0


def store_section(nats: NatsServer) -> Table:
    """What the section `nats` of a configuration says of the store, where processes bring it to the disk."""
    return {} if nats.store_dir is None else {"store_dir": str(nats.store_dir)}


def stub_config(chat_url: str, speech_url: str) -> Table:
    """The configuration of a set whose engines are stubs that speak OpenAI's protocol."""
    return {
        "chat": {
            "pools": {CHAT_POOL: {"backend": "openai", "url": chat_url, "slots": 8, "resume": "prefill"}},
            "models": {CHAT_MODEL: {"pool": CHAT_POOL, "aliases": ["owl:latest"]}},
            "default_model": CHAT_MODEL,
            "drain_timeout_s": 20,
        },
        "tts": {
            "pools": {TTS_POOL: {"backend": "openai", "url": speech_url, "slots": 2}},
            "models": {SPEECH_MODEL: {"pool": TTS_POOL, "voices": list(VOICES), "default_voice": VOICES[0]}},
            "drain_timeout_s": 20,
        },
        "quota": {
            "tiers": {
                "anonymous": {"tokens_per_day": 10_000_000},
                "standard": {"tokens_per_day": 10_000_000, "tokens_per_month": 100_000_000},
                "tiny": {"tokens_per_day": 120},
            },
            "reap_interval_s": 1,
        },
    }


class Deployment:
    """A set of processes that belong together; everything is stopped, and checked to be gone, by `stop`.

    Each service is a user of the bus with its own permissions. A set in which the server refused a subject fails.
    """

    def __init__(
        self,
        folder: Path,
        config: Table,
        *,
        sync: Sync = "default",
        log_level: str = "debug",
        edge_module: str = "callboard_edge",
        clustered: bool = False,
        forked: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        secrets = folder / "secrets"
        users = write_users(secrets, nkeys=False, admin_api="admin_token" in config.get("edge", {}))[-1]
        self._passwords: dict[str, str] = {
            user: (secrets / user / f"{user}.password").read_text(encoding="ascii") for user in USERS
        }
        # The server reads a file of users only by its path from its own configuration.
        settings = f'include "{os.path.relpath(users, folder / "nats" / ("n0" if clustered else ""))}"'
        login = f"operator:{self._passwords['operator']}"
        self.nats = (
            Cluster(folder / "nats", settings=settings, login=login)
            if clustered
            else NatsServer(folder / "nats", sync=sync, settings=settings, login=login)
        )
        self._config = config
        self._log_level = log_level
        self._edge_module = edge_module
        self._forked = forked
        self._environ = environ
        self.streams: Service | None = None
        self.quotas: list[Service] = []
        self.rooms: list[Service] = []
        self.chats: list[Service] = []
        self.speakers: list[Service] = []
        self.recognisers: list[Service] = []
        self.edges: list[Service] = []

    @property
    def base_url(self) -> str:
        """What the `openai` client takes as its base URL."""
        return f"{self.root_url()}/v1"

    @property
    def services(self) -> list[Service]:
        """Every service that was started, workers before the quota, the edge first."""
        return [*self.edges, *self.chats, *self.speakers, *self.recognisers, *self.rooms, *self.quotas]

    @property
    def children(self) -> dict[str, Child]:
        """Every process by its name, a single bus too."""
        services = (*self.services, *([self.streams] if self.streams else []))
        found = {service.name: service.running for service in services}
        if self.nats.child is not None:
            found["nats"] = self.nats.child
        return found

    def root_url(self, edge: int = 0) -> str:
        """The root of an edge's HTTP paths."""
        return f"http://127.0.0.1:{self.edges[edge].config['edge']['port']}"

    def start(self, *, chats: int = 1, speakers: int = 1, quotas: int = 1, edges: int = 1, rooms: int = 0) -> None:
        """Starts the bus and the given number of each service, and waits until all are ready."""
        self.nats.start()
        common = {
            "site": {"data_dir": str(self.folder / "data"), "log_level": self._log_level},
            "nats": {"url": self.nats.address, **store_section(self.nats)},
        }
        self._config = merged(self._config, common)
        self.command("streams", "apply")
        self.streams = self._service("streams", "callboard_cli", {}, None, "streams", "apply", "--watch")
        self.streams.start()
        started = [self.add_quota() for _ in range(quotas)]
        started += [self.add_chat() for _ in range(chats)]
        started += [self.add_speaker() for _ in range(speakers)]
        started += [self.add_rooms() for _ in range(rooms)]
        started += [self.add_edge() for _ in range(edges)]
        for service in started:
            service.wait_ready()

    def stop(self) -> None:
        """Stops everything in order; raises AssertionError when a process had to be killed or ended badly."""
        bad: list[str] = []
        for service in [*self.services, *([self.streams] if self.streams else [])]:
            if service.alive:
                code = service.running.stop(timeout_s=40)
                if code != 0:
                    bad.append(f"{service.name} ended with {code}: {service.running.output()[-1500:]}")
        self.nats.stop()
        assert not bad, "\n".join(bad)

    @contextmanager
    def running(self) -> Generator[Self]:
        """Starts everything; at the end no work may be left over, and every process must stop in order."""
        try:
            self.start()
            yield self
            self.wait_idle()
            self.stop()
        finally:
            self.abandon()

    @contextmanager
    def accounted(self, *beside: Callable[[], Service], **started: int) -> Generator[Self]:
        """As `running`, with services beside those that `start` is told of; at the end all usage must add up too."""
        try:
            self.start(**started)
            for one in [begin() for begin in beside]:
                one.wait_ready()
            yield self
            self.wait_idle()
            self.command("usage", "verify")
            self.stop()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Kills whatever still runs."""
        for service in [*self.services, *([self.streams] if self.streams else [])]:
            if service.child:
                service.child.kill()
        self.nats.kill()
        assert self.nats.violations() == []

    def add_quota(self, **over: Any) -> Service:
        """Starts another quota process."""
        port = free_port()
        service = self._service(
            f"quota-{len(self.quotas)}", "callboard_quota", merged({"quota": {"metrics_port": port}}, over), port
        )
        self.quotas.append(service)
        service.start()
        return service

    def add_rooms(self, **over: Any) -> Service:
        """Starts another rooms process."""
        port = free_port()
        own = merged({"rooms": {"metrics_port": port}}, over)
        service = self._service(f"rooms-{len(self.rooms)}", "callboard_rooms", own, port)
        self.rooms.append(service)
        service.start()
        return service

    def add_chat(self, pool: str | None = None, **over: Any) -> Service:
        """Starts another chat worker."""
        name = pool or next(iter(self._config["chat"]["pools"]))
        port = free_port()
        own = {"chat": {"pools": {name: {"metrics_port": port}}}}
        service = self._service(f"chat-{len(self.chats)}", "callboard_chat", merged(own, over), port, "--pool", name)
        self.chats.append(service)
        service.start()
        return service

    def add_speaker(self, pool: str | None = None, **over: Any) -> Service:
        """Starts another speech worker."""
        name = pool or next(iter(self._config["tts"]["pools"]))
        port = free_port()
        own = {"tts": {"pools": {name: {"metrics_port": port}}}}
        service = self._service(f"tts-{len(self.speakers)}", "callboard_tts", merged(own, over), port, "--pool", name)
        self.speakers.append(service)
        service.start()
        return service

    def add_recogniser(self, **over: Any) -> Service:
        """Starts another worker that writes down speech."""
        name = next(iter(self._config["stt"]["pools"]))
        port = free_port()
        own = {"stt": {"pools": {name: {"metrics_port": port}}}}
        service = self._service(
            f"stt-{len(self.recognisers)}", "callboard_stt", merged(own, over), port, "--pool", name
        )
        self.recognisers.append(service)
        service.start()
        return service

    def add_edge(self, **over: Any) -> Service:
        """Starts another edge."""
        port = free_port()
        own = {"edge": {"port": free_port(), "metrics_port": port}}
        service = self._service(f"edge-{len(self.edges)}", self._edge_module, merged(own, over), port)
        self.edges.append(service)
        service.start()
        return service

    def command(self, *words: str) -> str:
        """Runs `callboard <words>` with this set's configuration and returns what it prints."""
        own = self._service("command", "callboard_cli", {}, None)
        own.write_config()
        environ = own.environ if self._environ else None
        done = run_forked("callboard_cli", ["--config", str(own.config_file), *words], COMMAND_TIMEOUT_S, environ)
        assert done.returncode == 0, f"callboard {' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def create_key(self, tier: str) -> str:
        """Makes an API key of a tier and returns it."""
        return self.command("keys", "create", "--name", f"{tier} {uuid4().hex[:8]}", "--tier", tier).strip()

    def revoke_key(self, key: str) -> None:
        """Revokes an API key."""
        self.command("keys", "revoke", key)

    def messages_in(self, stream: str) -> int:
        """How many messages a stream holds, as the server's own monitoring says."""
        return self._message_counts()[stream]

    def left_over(self, streams: Sequence[str] = QUEUE_STREAMS) -> dict[str, int | None]:
        """The queues and leases that are not empty; None for one that no node leads now."""
        counts = self._message_counts()
        return {stream: counts.get(stream) for stream in streams if counts.get(stream) != 0}

    def _message_counts(self) -> dict[str, int]:
        """How many messages streams have by their leaders: a node that was killed may keep some that have expired."""
        counts: dict[str, int] = {}
        for node in self.nats.nodes if isinstance(self.nats, Cluster) else [self.nats]:
            if node.child is None or not node.child.alive:
                continue
            page: Any = node.monitor("jsz?streams=true")
            details = [detail for account in page["account_details"] for detail in account.get("stream_detail", [])]
            for detail in details:
                if not isinstance(node, Node) or detail["cluster"].get("leader") == node.name:
                    counts[detail["name"]] = int(detail["state"]["messages"])
        return counts

    def wait_idle(self, timeout_s: float = 15.0, streams: Sequence[str] = QUEUE_STREAMS) -> None:
        """Waits until no job is queued or running and no hold is open; raises with what is left."""
        try:
            wait_until(lambda: not self.left_over(streams), timeout_s, "queues and leases are empty", interval_s=0.05)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.left_over(streams)}") from None

    async def read(self, stream: str, subject: str = ">") -> list[StoredMessage]:
        """Every message of a stream that matches a subject, in order."""
        bus = await Bus.connect(NatsSection(url=self.nats.url), "test", lambda: None)
        try:
            return await read_subject(bus, stream, subject, timeout_s=20)
        finally:
            await bus.close()

    async def usage(self, tenant: str = "*") -> list[UsageEvent]:
        """Every usage event so far, in order, of one tenant or of all."""
        return [UsageEvent.model_validate_json(one.data) for one in await self.read("USAGE", f"usage.{tenant}")]

    async def counters(self, tenant: str = "*") -> dict[str, int]:
        """The newest value of every counter in the ledger, by subject, of one tenant or of all."""
        found = await self.read("QUOTA", f"q.used.{tenant}.*.*")
        return {message.subject: int(json.loads(message.data)["val"]) for message in found}

    async def charged_units(self, tenant: str = "*") -> dict[str, int]:
        """What the ledger has charged, by tenant and by the length of the buckets of time (hours, months)."""
        totals: dict[str, int] = {}
        for subject, value in (await self.counters(tenant)).items():
            _, _, tenant, metric, bucket = subject.split(".")
            if metric == "units":
                name = f"{tenant} {bucket[:1]}"
                totals[name] = totals.get(name, 0) + value
        return totals

    async def usage_of(
        self, count: int, since: int = 0, timeout_s: float = 20.0, tenant: str = "*"
    ) -> list[UsageEvent]:
        """Waits until there are `count` usage events after the first `since`, and returns exactly those."""
        until = asyncio.get_running_loop().time() + timeout_s
        while len(events := (await self.usage(tenant))[since:]) < count:
            assert asyncio.get_running_loop().time() < until, f"{len(events)} of {count} usage events came"
            await asyncio.sleep(0.05)
        return events

    def _service(
        self, name: str, module: str, over: Mapping[str, Any], health_port: int | None, *arguments: str
    ) -> Service:
        user = "operator" if module == "callboard_cli" else self._user_of(module)
        config = merged(merged(self._config, {"nats": {"user": user, "password": self._passwords[user]}}), over)
        return Service(
            name,
            module,
            config,
            self.folder,
            health_port=health_port,
            arguments=arguments,
            environ=self._environ,
            forked=self._forked,
        )

    def _user_of(self, module: str) -> str:
        return "edge" if module == self._edge_module else module.removeprefix("callboard_")


async def eventually(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Waits until a condition holds, which is looked at in a thread; raises AssertionError otherwise."""
    until = asyncio.get_running_loop().time() + timeout_s
    while not await asyncio.to_thread(condition):
        assert asyncio.get_running_loop().time() < until, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.01)


async def replaced(workers: list[Service], start: Callable[[], Service]) -> None:
    """Kills the newest of some workers and starts another in its place."""
    await asyncio.to_thread(workers[-1].running.kill)
    await asyncio.to_thread(start().wait_ready)
