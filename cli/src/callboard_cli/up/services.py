"""The processes of a single-machine Callboard, in the order in which they stop."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from callboard_cli.up.ports import LOOPBACK, bus_address, free_ports
from callboard_contracts.config import Config

STOP_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """A process: its command line, the port of its `/readyz`, and how long it may take to stop."""

    name: str
    argv: tuple[str, ...]
    ready_port: int
    stop_timeout_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All services and their environment."""

    services: tuple[Service, ...]
    environ: Mapping[str, str] = field(repr=False)
    edge_port: int
    bus_host: str
    bus_port: int

    @property
    def bus_url(self) -> str:
        """The address of the bus."""
        host = f"[{self.bus_host}]" if ":" in self.bus_host else self.bus_host
        return f"nats://{host}:{self.bus_port}"


def plan(config: Config, config_path: Path, environ: Mapping[str, str] = os.environ) -> Plan:
    """Plans the processes, and chooses every port that the configuration leaves open."""
    overrides: dict[str, str] = {}
    spare = iter(free_ports(3 + len(config.chat.pools) + len(config.tts.pools)))

    def port(setting: str, configured: int) -> int:
        if configured:
            return configured
        chosen = next(spare)
        overrides[f"CALLBOARD__{setting.replace('.', '__').upper()}"] = str(chosen)
        return chosen

    def service(name: str, module: str, ready_port: int, drain_s: float, *arguments: str) -> Service:
        argv = (sys.executable, "-m", module, "--config", str(config_path), *arguments)
        return Service(name, argv, ready_port, drain_s + STOP_MARGIN_S)

    bus_host, bus_port = bus_address(config)
    edge_port = port("edge.port", config.edge.port)
    edge_metrics = port("edge.metrics_port", config.edge.metrics_port)
    services = [service("edge", "callboard_edge", edge_metrics, config.edge.drain_timeout_s)]
    for kind, section in (("chat", config.chat), ("tts", config.tts)):
        for name, pool in section.pools.items():
            metrics = port(f"{kind}.pools.{name}.metrics_port", pool.metrics_port)
            services.append(
                service(f"{kind}-{name}", f"callboard_{kind}", metrics, section.drain_timeout_s, "--pool", name)
            )
    quota_metrics = port("quota.metrics_port", config.quota.metrics_port)
    services.append(service("quota", "callboard_quota", quota_metrics, STOP_MARGIN_S))
    return Plan(tuple(services), {**environ, **overrides}, edge_port, bus_host, bus_port)


def ready_address(service: Service) -> tuple[str, int, str]:
    """Returns host, port and path of a service's readiness endpoint."""
    return LOOPBACK, service.ready_port, "/readyz"
