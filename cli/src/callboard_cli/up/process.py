"""A process that `up` keeps running: started, watched, and started again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.up.child import Child
from callboard_cli.up.probes import NO_ANSWER, Probes
from callboard_cli.up.restarts import MAX_DEATHS, WINDOW_S, Restarts

POLL_S = 0.05
HEALTH_INTERVAL_S = 2.0
MAX_MISSED = 10
"""So many health checks in turn without an answer end a process."""
FIRST_ANSWER_S = 180.0
"""How long a process that was started again may be silent before it is ready; it may be loading a large model."""
STOP_TIMEOUT_S = 20.0

State = Literal["starting", "running", "restarting", "failed"]


class SupervisedProcess:
    """Runs one process for as long as `up` does.

    What ends before it was ever ready is not started again, unless a signal ended it: its configuration is wrong. A
    site without an `essential` process is none.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], Awaitable[Child]],
        probes: Probes,
        say: Callable[[str], None],
        on_change: Callable[[], None],
        *,
        essential: bool = False,
    ) -> None:
        self.name = name
        self.child: Child | None = None
        self.state: State = "starting"
        self.ready = asyncio.Event()
        """Set once the process has been ready for the first time."""
        self._launch = launch
        self._probes = probes
        self._say = say
        self._on_change = on_change
        self._essential = essential
        self._restarts = Restarts()

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        return self._restarts.count

    async def run(self) -> None:
        """Keeps the process running until cancelled, or until it has died too often.

        Raises:
            CommandError: the process never became ready, or it is essential and died too often.
        """
        while True:
            cause = await self._run_once()
            pause_s = self._restarts.pause_s()
            if pause_s is None:
                self._give_up(cause)
                return
            self._become("restarting")
            self._say(f"{cause}; starting it again in {pause_s:g} s (restart {self.restarts})")
            await asyncio.sleep(pause_s)

    async def _run_once(self) -> str:
        """Runs the process to its end, and returns one line about that."""
        try:
            self.child = await self._launch()
        except (CommandError, OSError) as error:
            if not self.ready.is_set():
                raise
            return f"{self.name} could not be started again: {error}"
        cause = await self._watch(self.child)
        if not self.ready.is_set() and not self.child.killed:
            raise CommandError(cause, ExitCode.CHILD_ENDED)
        return cause

    async def _watch(self, child: Child) -> str:
        ended = asyncio.ensure_future(child.ended())
        clock = asyncio.get_running_loop().time
        answered_at, missed, ready = clock(), 0, False
        try:
            while True:
                await asyncio.wait({ended}, timeout=HEALTH_INTERVAL_S if ready else POLL_S)
                if ended.done():
                    return child.exit_report()
                if not ready:
                    ready = await self._probes.ready(child)
                    if ready:
                        self._became_ready()
                    elif not self.ready.is_set():
                        # The first start has a time limit of its own, for all processes.
                        continue
                reason = await self._probes.health(child)
                if reason == NO_ANSWER:
                    missed += 1
                else:
                    answered_at, missed = clock(), 0
                if missed >= MAX_MISSED if ready else clock() - answered_at > FIRST_ANSWER_S:
                    child.kill()
                    await asyncio.wait({ended}, timeout=STOP_TIMEOUT_S)
                    return f"{self.name} did not answer its health check and was killed (log: {child.log})"
                if reason is not None and reason != NO_ANSWER:
                    await child.stop(STOP_TIMEOUT_S)
                    return f"{self.name} was stopped, because {reason}"
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    def _became_ready(self) -> None:
        if self.restarts:
            self._say(f"{self.name} is ready again (restart {self.restarts})")
        self._become("running")
        self.ready.set()

    def _give_up(self, cause: str) -> None:
        often = f"{cause}; it ended {MAX_DEATHS} times within {WINDOW_S / 60:g} minutes"
        if self._essential or not self.ready.is_set():
            raise CommandError(often, ExitCode.CHILD_ENDED)
        self._become("failed")
        self._say(f"{often} and is not started again; everything else goes on")

    def _become(self, state: State) -> None:
        self.state = state
        self._on_change()
