"""Runs the bus and all services as children: starts them, keeps them running, and stops them in order.

A process that ends is started again. One that ends too often is left alone and said to the edge, which refuses what
that process was for; the rest goes on.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from callboard_admin.accounts import Accounts
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.streams import keep_applied
from callboard_cli.up import bus_server
from callboard_cli.up.child import KILL_TIMEOUT_S, Child
from callboard_cli.up.password import accept_password
from callboard_cli.up.probes import BusProbes, ServiceProbes
from callboard_cli.up.process import SupervisedProcess
from callboard_cli.up.restart_repair import RestartRepair
from callboard_cli.up.services import Plan, Service
from callboard_cli.up.store_check import StoreCheck
from callboard_contracts.config import Config
from callboard_contracts.streams import BUCKET_WORKERS
from callboard_contracts.workers import ANNOUNCE_INTERVAL_S, ANNOUNCE_LIFE_S, ProcessRecord, process_entry
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus, BusError
from callboard_kit.bus_credentials import BUS_FOLDER, private_folder
from callboard_kit.lifecycle import is_set_within
from callboard_kit.provisioning import apply_streams

BUS_NAME = "nats"
EDGE_NAME = "edge"
BUS_START_TIMEOUT_S = 60.0
BUS_STOP_TIMEOUT_S = 20.0
READY_TIMEOUT_S = 180.0
REPEATED_WARNING_S = 10.0

Say = Callable[[str], None]


class Supervision:
    """The children of one `up`; a password is what callers have to send as their key."""

    def __init__(self, config: Config, plan: Plan, data_dir: Path, say: Say, password: str | None = None) -> None:
        self._config = config
        self._plan = plan
        self._folder = data_dir / BUS_FOLDER
        self._logs = data_dir / "logs"
        self._say = say
        self._password = password
        self._stop = asyncio.Event()
        self._kill_requested = asyncio.Event()
        self._changed = asyncio.Event()
        self._shown: dict[tuple[str, str], float] = {}
        probes = BusProbes(self._folder, self._tell)
        self._bus = SupervisedProcess(BUS_NAME, self._launch_bus, probes, self._tell, self._changed.set, essential=True)
        self._processes = {service.name: self._supervised(service) for service in plan.services}

    def _supervised(self, service: Service) -> SupervisedProcess:
        async def launch() -> Child:
            return await Child.start(service.name, service.argv, self._plan.environ, self._logs, self._on_warning)

        probes = ServiceProbes(service.ready_port)
        essential = service.name == EDGE_NAME
        return SupervisedProcess(service.name, launch, probes, self._tell, self._changed.set, essential=essential)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Starts everything, calls `on_ready`, and returns when everything has stopped after a signal.

        Raises:
            CommandError: a child could not start, was not ready in time, or was essential and ended too often; all are
                stopped by then.
        """
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(private_folder, self._logs)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        try:
            await self._unless_stopped(self._keep_running(on_ready))
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            await self._stop_all()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._kill_requested.set()
        self._stop.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Does some work until a stop is requested."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            for each in (task, stopped):
                each.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    async def _keep_running(self, on_ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._bus.run())
            await self._until_ready([self._bus], BUS_START_TIMEOUT_S)
            bus = await self._connect()
            store = StoreCheck(bus, self._config, self._folder)
            try:
                due = asyncio.Event()
                # Memory streams end with their server.
                bus.on_reconnect(due.set)
                repair = RestartRepair(self._folder)
                repair_since = await asyncio.to_thread(repair.due_since)
                await self._declare(bus, store)
                group.create_task(store.keep_record())
                group.create_task(keep_applied(partial(apply_streams, bus, self._config), due, self._stop))
                group.create_task(self._announce(bus))
                for service in reversed(self._plan.services):
                    group.create_task(self._processes[service.name].run())
                await self._until_ready(self._processes.values(), READY_TIMEOUT_S)
                if repair_since is not None:
                    group.create_task(repair.run(bus, repair_since, self._tell))
                on_ready()
                # Only the cancellation by a stop ends this; one that came while the bus is closed could be lost.
                await asyncio.get_running_loop().create_future()
            finally:
                await store.record()
                await bus.close()

    async def _launch_bus(self) -> Child:
        server = bus_server.binary()
        path = bus_server.write_configuration(self._config.nats, self._plan.bus_host, self._plan.bus_port, self._folder)
        await asyncio.to_thread(bus_server.check_configuration, server, path)
        environ = bus_server.environment(self._plan.environ)
        return await Child.start(BUS_NAME, [str(server), "-c", str(path)], environ, self._logs, self._on_warning)

    async def _connect(self) -> Bus:
        nats = self._config.nats.model_copy(update={"url": self._plan.bus_url})
        try:
            return await Bus.connect(nats, "callboard-up", lambda: None)
        except BusError as error:
            raise CommandError(f"nats-server: {error}") from None

    async def _declare(self, bus: Bus, store: StoreCheck) -> None:
        try:
            for loss in await store.find_losses():
                self._say(f"nats: {loss} (store: {self._folder}; what to do: docs/runbooks/bus-storage-full.md)")
            await apply_streams(bus, self._config)
            if self._password:
                await accept_password(Accounts.on(bus), self._password, self._config.quota.default_tier)
        except BusError as error:
            raise CommandError(f"the streams could not be declared: {error}") from None

    async def _until_ready(self, processes: Iterable[SupervisedProcess], timeout_s: float) -> None:
        waiting = list(processes)
        try:
            async with asyncio.timeout(timeout_s):
                for process in waiting:
                    await process.ready.wait()
        except TimeoutError:
            names = ", ".join(process.name for process in waiting if not process.ready.is_set())
            message = f"not ready within {timeout_s:.0f} s: {names} (logs: {self._logs})"
            raise CommandError(message, ExitCode.NOT_READY) from None

    async def _announce(self, bus: Bus) -> None:
        """Tells the edge which processes were started again and which no longer are; what is well has no entry."""
        bucket = Bucket(bus, BUCKET_WORKERS)
        while True:
            self._changed.clear()
            for record in self._records():
                try:
                    await bucket.put(process_entry(record.name), record.encoded(), None, life_s=ANNOUNCE_LIFE_S)
                except BusError:
                    break
            await is_set_within(self._changed, ANNOUNCE_INTERVAL_S)

    def _records(self) -> Iterable[ProcessRecord]:
        pools = {service.name: service.pool or (None, None) for service in self._plan.services}
        for process in (self._bus, *self._processes.values()):
            if process.restarts:
                kind, pool = pools.get(process.name, (None, None))
                yield ProcessRecord(
                    name=process.name, state=process.state, restarts=process.restarts, service=kind, pool=pool
                )

    def _children(self) -> list[Child]:
        return [process.child for process in (self._bus, *self._processes.values()) if process.child]

    async def _stop_all(self) -> None:
        """Stops the edge first, so that no new work arrives, and the bus last, because all others still publish."""
        self._stop.set()
        kind_of = {service.name: service.name.split("-", 1)[0] for service in self._plan.services}
        kill = asyncio.ensure_future(self._kill_on_request())
        try:
            for kind in dict.fromkeys(kind_of.values()):
                await asyncio.gather(
                    *(
                        self._stop_one(child, service.stop_timeout_s)
                        for service in self._plan.services
                        if kind_of[service.name] == kind and (child := self._processes[service.name].child)
                    )
                )
            if self._bus.child:
                await self._stop_one(self._bus.child, BUS_STOP_TIMEOUT_S)
        finally:
            kill.cancel()
            await asyncio.gather(kill, return_exceptions=True)
            for child in self._children():
                child.kill()

    async def _stop_one(self, child: Child, timeout_s: float) -> None:
        if not await child.stop(KILL_TIMEOUT_S if self._kill_requested.is_set() else timeout_s):
            self._say(f"{child.name} did not stop within {timeout_s:g} s and was killed")

    async def _kill_on_request(self) -> None:
        await self._kill_requested.wait()
        for child in self._children():
            child.kill()

    def _tell(self, text: str) -> None:
        """Says something of a running site, and nothing while it stops."""
        if not self._stop.is_set():
            self._say(text)

    def _on_warning(self, name: str, event: str) -> None:
        """Shows a child's warning, a repeated one at most every 10 s, and none while stopping."""
        now = time.monotonic()
        if now - self._shown.get((name, event), -REPEATED_WARNING_S) < REPEATED_WARNING_S:
            return
        self._shown[name, event] = now
        self._tell(f"{name}: {event} (log: {self._logs / f'{name}.log'})")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
