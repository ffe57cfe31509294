"""Callboard's own processes, started as an operator would start them."""

import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.children import Child, wait_until
from tests.support.fork_server import ForkedChild

READY_TIMEOUT_S = 60.0
Table = dict[str, Any]

_POOL = re.compile(r'pool="[^"]*",?|,pool="[^"]*"(?=})')

_KEPT_VARIABLES = (
    "PATH",
    "PYTHONPATH",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "COVERAGE_PROCESS_START",
)


def toml_text(table: Table) -> str:
    """A table as TOML, one dotted key a line; a key whose value is None is left out."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in _leaves(table, ""))


def _leaves(table: Table, prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in table.items():
        path = f"{prefix}{json.dumps(key)}"
        if isinstance(value, dict) and value:
            found += _leaves(value, f"{path}.")
        elif value is not None:
            found.append((path, value))
    return found


def merged(base: Table, over: Mapping[str, Any]) -> Table:
    """A copy of a table with another one laid over it, table by table."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return result


class Service:
    """One process of the set: `python -m <module> --config <file>`, with its health port.

    A forked one starts in a fraction of the time, but shares memory with others.
    """

    def __init__(
        self,
        name: str,
        module: str,
        config: Table,
        folder: Path,
        *,
        health_port: int | None,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        forked: bool = False,
    ) -> None:
        self.name = name
        self.config = config
        self.health_port = health_port
        self.config_file = folder / f"{name}.toml"
        self._log = folder / f"{name}.log"
        self._module = module
        self._arguments = ["--config", str(self.config_file), *arguments]
        self._forked = forked
        self.environ = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ} | dict(environ or {})
        self.child: Child | None = None

    @property
    def running(self) -> Child:
        """The process; raises when it was never started."""
        if self.child is None:
            raise RuntimeError(f"{self.name} was not started")
        return self.child

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.child is not None and self.child.alive

    def start(self) -> None:
        """Starts the process without waiting for it."""
        self.write_config()
        self.child = (
            ForkedChild(self._module, self._arguments, self._log, self.environ)
            if self._forked
            else Child([sys.executable, "-m", self._module, *self._arguments], self._log, self.environ)
        )

    def write_config(self) -> None:
        """Writes the process's configuration file."""
        self.config_file.write_text(toml_text(self.config), encoding="utf-8")

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits until the process says that it can take work; raises with its output when it ends instead."""
        child = self.running

        def ready() -> bool:
            if not child.alive:
                raise RuntimeError(f"{self.name} ended with {child.process.returncode}: {child.output()[-4000:]}")
            return self.health_port is None or self.ready_reason() is None

        try:
            wait_until(ready, timeout_s, f"{self.name} is ready", interval_s=0.05)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.ready_reason()}: {child.output()[-4000:]}") from None

    def ready_reason(self) -> str | None:
        """None when the process is ready, else what it says instead."""
        try:
            with urllib.request.urlopen(self._url("readyz"), timeout=5) as reply:
                return None if reply.status == 200 else str(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode("utf-8", "replace")
        except OSError as error:
            return str(error)

    def metrics(self) -> dict[str, float]:
        """The process's figures, by name with labels; a worker's without its pool, which is the same for all."""
        with urllib.request.urlopen(self._url("metrics"), timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        return {
            _POOL.sub("", line.rpartition(" ")[0]).replace("{}", ""): float(line.rpartition(" ")[2])
            for line in lines
            if line and not line.startswith("#")
        }

    def logs(self) -> list[dict[str, Any]]:
        """Every JSON line that the process wrote; a line that is not JSON is given as the event `not_json`."""
        if self.child is None:
            return []
        return [_log_line(line) for line in self.child.output().splitlines() if line.strip()]

    def _url(self, page: str) -> str:
        return f"http://127.0.0.1:{self.health_port}/{page}"


def _log_line(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {"event": "not_json", "text": line}
    return record if isinstance(record, dict) else {"event": "not_json", "text": line}
