"""The processes of a single-machine Callboard, in the order in which they stop."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from callboard_cli.up.ports import bus_address, free_ports
from callboard_contracts.config import Config
from callboard_contracts.jobs import Service as WorkerService
from callboard_contracts.pools import ChatSection, SttSection, TtsSection

STOP_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """A process: its command line, the port of its `/readyz`, how long it may take to stop, and a worker's pool."""

    name: str
    argv: tuple[str, ...]
    ready_port: int
    stop_timeout_s: float
    pool: tuple[WorkerService, str] | None = None


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
    spare = iter(free_ports(4 + len(config.chat.pools) + len(config.tts.pools) + len(config.stt.pools)))

    def port(setting: str, configured: int) -> int:
        if configured:
            return configured
        chosen = next(spare)
        overrides[f"CALLBOARD__{setting.replace('.', '__').upper()}"] = str(chosen)
        return chosen

    def service(
        name: str, module: str, ready_port: int, drain_s: float, pool: tuple[WorkerService, str] | None = None
    ) -> Service:
        arguments = () if pool is None else ("--pool", pool[1])
        argv = (sys.executable, "-m", module, "--config", str(config_path), *arguments)
        return Service(name, argv, ready_port, drain_s + STOP_MARGIN_S, pool)

    bus_host, bus_port = bus_address(config)
    if config.nats.store_dir is not None:
        overrides["CALLBOARD__NATS__STORE_DIR"] = str(config.nats.store_dir)
    edge_port = port("edge.port", config.edge.port)
    edge_metrics = port("edge.metrics_port", config.edge.metrics_port)
    services = [service("edge", "callboard_edge", edge_metrics, config.edge.drain_timeout_s)]
    sections: tuple[tuple[WorkerService, ChatSection | TtsSection | SttSection], ...] = (
        ("chat", config.chat),
        ("tts", config.tts),
        ("stt", config.stt),
    )
    for kind, section in sections:
        for name, pool in section.pools.items():
            metrics = port(f"{kind}.pools.{name}.metrics_port", pool.metrics_port)
            worker = (kind, name)
            services.append(service(f"{kind}-{name}", f"callboard_{kind}", metrics, section.drain_timeout_s, worker))
    rooms_metrics = port("rooms.metrics_port", config.rooms.metrics_port)
    services.append(service("rooms", "callboard_rooms", rooms_metrics, STOP_MARGIN_S))
    quota_metrics = port("quota.metrics_port", config.quota.metrics_port)
    services.append(service("quota", "callboard_quota", quota_metrics, STOP_MARGIN_S))
    return Plan(tuple(services), {**environ, **overrides}, edge_port, bus_host, bus_port)
