"""The life of a process: start, run until told to stop, drain, end."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

from callboard_contracts.config import Config
from callboard_kit import library_output, tracing
from callboard_kit.logs import setup_logs
from callboard_kit.native_code import load_failure
from callboard_kit.settings import SettingsError, load_config

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_STUCK = 3
"""The exit code of a process that cannot end by itself, since some of its threads are stuck; a fresh one helps."""
THREADS_TIMEOUT_S = 1.0


class StartError(Exception):
    """A process cannot start; the message is one line for the operator."""


async def is_set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Waits for an event, and says whether it was set in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Shutdown:
    """Tells every part of a process that it is time to stop, once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason = ""
        self.failed = False
        self.stuck = False

    @property
    def stopping(self) -> bool:
        """Whether the process has been told to stop."""
        return self._event.is_set()

    def request_stop(self, reason: str, *, failed: bool = False, stuck: bool = False) -> None:
        """Begins the stop; only the first call counts, but for `stuck`.

        `failed` makes the process exit with an error, `stuck` makes it do so without waiting for its threads.
        """
        self.stuck = self.stuck or stuck
        if not self._event.is_set():
            self.reason = reason
            self.failed = failed
            self._event.set()

    async def wait(self) -> None:
        """Returns when the stop has been requested."""
        await self._event.wait()


class TaskSupervisor:
    """Owns background tasks: a task that fails requests the stop, and leaving the context ends them all."""

    def __init__(self, shutdown: Shutdown) -> None:
        self._shutdown = shutdown
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Runs a coroutine until it ends or the context does."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("task_failed", extra={"task": task.get_name()}, exc_info=error)
            self._shutdown.request_stop(f"{task.get_name()} failed", failed=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


Main = Callable[[Config, Shutdown, argparse.Namespace], Awaitable[None]]


def run_service(name: str, main: Main, add_arguments: Callable[[argparse.ArgumentParser], None] | None = None) -> int:
    """Runs one service from its command line and returns its exit code.

    `main` gets the configuration, the shutdown and the parsed arguments; it returns when everything is drained. SIGTERM
    and SIGINT request the stop; a second one ends the process at once.
    """
    parser = argparse.ArgumentParser(prog=f"callboard_{name}")
    parser.add_argument("--config", type=Path, help="the configuration file; default: callboard.toml")
    if add_arguments:
        add_arguments(parser)
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config)
    except SettingsError as error:
        sys.stderr.write(f"callboard {name}: {error}\n")
        return EXIT_SETTINGS
    setup_logs(name, config.site.log_level)
    captured = library_output.capture()
    try:
        tracing.set_up(name, config.site.traces_endpoint)
        code = uvloop.run(_supervise(main, config, arguments))
    except (StartError, tracing.TracesUnavailable) as error:
        log.error("start_failed", extra={"reason": str(error)})  # noqa: TRY400 - one line for the operator, no traceback
        captured.stream.write(f"callboard {name}: {error}\n")
        code = EXIT_FAILED
    tracing.close()
    captured.close()
    _leave_stuck_threads(code)
    return code


def _leave_stuck_threads(code: int) -> None:
    """Ends the process where a thread does not end, for the interpreter would wait for it for ever."""
    until = time.monotonic() + THREADS_TIMEOUT_S
    others = [one for one in threading.enumerate() if not one.daemon and one is not threading.current_thread()]
    for thread in others:
        thread.join(max(0.0, until - time.monotonic()))
    stuck = [thread.name for thread in others if thread.is_alive()]
    if stuck:
        log.error("threads_stuck", extra={"threads": stuck})
        logging.shutdown()
        os._exit(code)


async def _supervise(main: Main, config: Config, arguments: argparse.Namespace) -> int:
    shutdown = Shutdown()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if shutdown.stopping:
            log.warning("killed", extra={"signal": number.name})
            os._exit(EXIT_FAILED)
        shutdown.request_stop(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    log.info("started")
    try:
        await main(config, shutdown, arguments)
    except StartError:
        raise
    except Exception as error:
        if reason := load_failure(error):
            raise StartError(reason) from error
        log.exception("failed")
        return EXIT_FAILED
    if shutdown.stuck:
        # Whatever ends the event loop in an orderly way would wait for what is stuck.
        log.error("stopped", extra={"reason": shutdown.reason, "exit_code": EXIT_STUCK})
        logging.shutdown()
        os._exit(EXIT_STUCK)
    log.info("stopped", extra={"reason": shutdown.reason})
    return EXIT_FAILED if shutdown.failed else EXIT_OK
