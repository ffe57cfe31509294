"""Runs the bus and all services as children: starts them, watches them, and stops them in order.

When a child ends by itself, all others are stopped: on one machine a restart is up to whoever started `up`, and an
installation that runs in part would only hide the fault.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.up import bus_server
from callboard_cli.up.child import KILL_TIMEOUT_S, Child
from callboard_cli.up.services import Plan, Service, ready_address
from callboard_contracts.config import Config
from callboard_kit.bus import Bus, BusError
from callboard_kit.provisioning import apply_streams

BUS_NAME = "nats"
BUS_START_TIMEOUT_S = 60.0
BUS_STOP_TIMEOUT_S = 20.0
READY_TIMEOUT_S = 180.0
POLL_S = 0.05
REPEATED_WARNING_S = 10.0

Say = Callable[[str], None]


class Supervision:
    """The children of one `up`."""

    def __init__(self, config: Config, plan: Plan, data_dir: Path, say: Say) -> None:
        self._config = config
        self._plan = plan
        self._data_dir = data_dir
        self._logs = data_dir / "logs"
        self._say = say
        self._bus: Child | None = None
        self._children: dict[str, Child] = {}
        self._stop = asyncio.Event()
        self._kill_requested = asyncio.Event()
        self._shown: dict[tuple[str, str], float] = {}

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Starts everything, calls `on_ready`, and returns when everything has stopped after a signal.

        Raises:
            CommandError: a child could not start, was not ready in time or ended by itself; all are stopped by then.
        """
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._logs.mkdir, parents=True, exist_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        try:
            if await self._unless_stopped(self._start()):
                on_ready()
                await self._unless_stopped(self._watch())
        finally:
            await self._stop_all()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._kill_requested.set()
        self._stop.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Does some work until a stop is requested; returns whether the work was finished."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            return False
        finally:
            for each in (task, stopped):
                each.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    async def _start(self) -> None:
        await self._start_bus()
        await self._apply_streams()
        for service in reversed(self._plan.services):
            self._children[service.name] = await Child.start(
                service.name, service.argv, self._plan.environ, self._logs, self._on_warning
            )
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._until_ready()
        except TimeoutError:
            raise CommandError(await self._not_ready(), ExitCode.NOT_READY) from None

    async def _start_bus(self) -> None:
        server = bus_server.binary()
        folder = self._data_dir / BUS_NAME
        path = bus_server.write_configuration(self._config.nats, self._plan.bus_host, self._plan.bus_port, folder)
        await asyncio.to_thread(bus_server.check_configuration, server, path)
        environ = bus_server.environment(self._plan.environ)
        self._bus = await Child.start(BUS_NAME, [str(server), "-c", str(path)], environ, self._logs, self._on_warning)
        until = time.monotonic() + BUS_START_TIMEOUT_S
        while time.monotonic() < until:
            await self._check_alive()
            port = bus_server.monitor_port(folder, self._bus.pid)
            if port and await self._bus.ready("127.0.0.1", port, "/healthz"):
                return
            await asyncio.sleep(POLL_S)
        raise CommandError(f"nats-server was not ready within {BUS_START_TIMEOUT_S:.0f} s", ExitCode.NOT_READY)

    async def _apply_streams(self) -> None:
        nats = self._config.nats.model_copy(update={"url": self._plan.bus_url})
        try:
            bus = await Bus.connect(nats, "callboard-up", lambda: None)
            try:
                await apply_streams(bus, self._config)
            finally:
                await bus.close()
        except BusError as error:
            raise CommandError(f"the streams could not be declared: {error}") from None

    async def _until_ready(self) -> None:
        waiting = {service.name: service for service in self._plan.services}
        while waiting:
            await self._check_alive()
            for service in list(waiting.values()):
                if await self._is_ready(service):
                    del waiting[service.name]
            await asyncio.sleep(POLL_S)

    async def _is_ready(self, service: Service) -> bool:
        return await self._children[service.name].ready(*ready_address(service))

    async def _not_ready(self) -> str:
        names = [service.name for service in self._plan.services if not await self._is_ready(service)]
        return f"not ready within {READY_TIMEOUT_S:.0f} s: {', '.join(names)} (logs: {self._logs})"

    async def _check_alive(self) -> None:
        for child in self._all_children():
            if not child.alive:
                await child.ended()
                raise CommandError(child.exit_report(), ExitCode.CHILD_ENDED)

    async def _watch(self) -> None:
        ends = [asyncio.ensure_future(child.ended()) for child in self._all_children()]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        await self._check_alive()

    def _all_children(self) -> list[Child]:
        return [*([self._bus] if self._bus else []), *self._children.values()]

    async def _stop_all(self) -> None:
        """Stops the edge first, so that no new work arrives, and the bus last, because all others still publish."""
        self._stop.set()
        kind_of = {service.name: service.name.split("-", 1)[0] for service in self._plan.services}
        kill = asyncio.ensure_future(self._kill_on_request())
        try:
            for kind in dict.fromkeys(kind_of.values()):
                await asyncio.gather(
                    *(
                        self._stop_one(self._children[service.name], service.stop_timeout_s)
                        for service in self._plan.services
                        if kind_of[service.name] == kind and service.name in self._children
                    )
                )
            if self._bus:
                await self._stop_one(self._bus, BUS_STOP_TIMEOUT_S)
        finally:
            kill.cancel()
            await asyncio.gather(kill, return_exceptions=True)
            for child in self._all_children():
                child.kill()

    async def _stop_one(self, child: Child, timeout_s: float) -> None:
        if not await child.stop(KILL_TIMEOUT_S if self._kill_requested.is_set() else timeout_s):
            self._say(f"{child.name} did not stop within {timeout_s:g} s and was killed")

    async def _kill_on_request(self) -> None:
        await self._kill_requested.wait()
        for child in self._all_children():
            child.kill()

    def _on_warning(self, name: str, event: str) -> None:
        """Shows a child's warning, a repeated one at most every 10 s, and none while stopping."""
        now = time.monotonic()
        if self._stop.is_set() or now - self._shown.get((name, event), -REPEATED_WARNING_S) < REPEATED_WARNING_S:
            return
        self._shown[name, event] = now
        self._say(f"{name}: {event} (log: {self._logs / f'{name}.log'})")
