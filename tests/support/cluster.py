"""Three real nats-servers that replicate, as a `NatsServer` would be one."""

import urllib.error
from pathlib import Path

from tests.support.children import Child, wait_until
from tests.support.nats_server import NatsServer, server_binary
from tests.support.ports import free_port

NODES = 3
START_TIMEOUT_S = 30.0


class Node(NatsServer):
    """One server of a cluster; its ports are chosen beforehand, because the others must know them."""

    def __init__(self, folder: Path, name: str, route: int, settings: str, login: str) -> None:
        super().__init__(folder, settings=settings, login=login)
        self.name = name
        self.route = route
        self.routes: list[int] = []
        self.port = free_port()
        self.monitor_port = free_port()

    def launch(self) -> None:
        """Starts the server without waiting."""
        config = self.folder / "nats.conf"
        routes = ", ".join(f'"nats://127.0.0.1:{route}"' for route in self.routes)
        config.write_text(
            f"""
            server_name: {self.name}
            listen: "127.0.0.1:{self.port}"
            http: "127.0.0.1:{self.monitor_port}"
            cluster {{ name: callboard-test, listen: "127.0.0.1:{self.route}", routes: [{routes}] }}
            jetstream {{ store_dir: "{self.folder / "store"}", max_mem: 2G, max_file: 16G }}
            feature_flags {{ js_ack_fc_v2: false }}
            {self.settings}
            """,
            encoding="utf-8",
        )
        self.child = Child([server_binary(), "--config", str(config)], self.folder / "nats.log")


class Cluster(NatsServer):
    """Three nodes; `url` names all of them."""

    def __init__(self, folder: Path, *, settings: str = "", login: str = "") -> None:
        super().__init__(folder, settings=settings, login=login)
        self.nodes = [Node(folder / f"n{n}", f"n{n}", free_port(), settings, login) for n in range(NODES)]
        for node in self.nodes:
            node.routes = [other.route for other in self.nodes if other is not node]

    @property
    def address(self) -> str:
        """Where clients connect that have credentials of their own."""
        return ",".join(node.address for node in self.nodes)

    def violations(self) -> list[str]:
        """What the logs of all nodes say of forbidden subjects."""
        return [line for node in self.nodes for line in node.violations()]

    def start(self) -> None:
        """Starts the nodes that do not run and waits until the cluster has a leader."""
        for node in self.nodes:
            if node.child is None or not node.child.alive:
                node.launch()
        wait_until(self._agreed, START_TIMEOUT_S, "the cluster has a leader")

    def stop(self) -> None:
        """Stops all nodes in order."""
        for node in self.nodes:
            node.stop()

    def kill(self) -> None:
        """Kills all nodes."""
        for node in self.nodes:
            node.kill()

    def monitor(self, path: str) -> dict[str, object]:
        """One page of the monitoring of the first node that answers."""
        for node in self.nodes:
            if node.child is not None and node.child.alive:
                return node.monitor(path)
        raise OSError("no node runs")

    def node(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def _agreed(self) -> bool:
        for node in self.nodes:
            try:
                page = node.monitor("healthz")
                meta = node.monitor("jsz").get("meta_cluster")
            except (urllib.error.URLError, OSError):
                return False
            if page.get("status") != "ok" or not isinstance(meta, dict) or not meta.get("leader"):
                return False
        return True
