"""Ports on this machine: those of the configuration, and free ones."""

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from callboard_cli.failures import CommandError, ExitCode
from callboard_contracts.config import Config
from callboard_kit.bus_credentials import is_local

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ConfiguredPort:
    """A port of the configuration; 0 means any free one."""

    setting: str
    host: str
    number: int


def bus_address(config: Config) -> tuple[str, int]:
    """Returns the host and port of the bus; raises CommandError if the configuration names one on another machine."""
    url = urlsplit(config.nats.url)
    host = "127.0.0.1" if url.hostname == "localhost" else url.hostname or ""
    try:
        port = url.port or 4222
    except ValueError:
        port = 0
    if not port or not is_local(config.nats.url):
        raise CommandError(
            f"nats.url: found {config.nats.url!r}, but `up` starts a bus of its own on this machine: allowed is "
            "nats://127.0.0.1:<port>",
            ExitCode.USAGE,
        )
    return host, port


def configured_ports(config: Config) -> list[ConfiguredPort]:
    """Returns every port of the configuration."""
    host, port = bus_address(config)
    ports = [
        ConfiguredPort("edge.port", config.edge.host, config.edge.port),
        ConfiguredPort("edge.metrics_port", LOOPBACK, config.edge.metrics_port),
        ConfiguredPort("quota.metrics_port", LOOPBACK, config.quota.metrics_port),
        ConfiguredPort("rooms.metrics_port", LOOPBACK, config.rooms.metrics_port),
        ConfiguredPort("nats.url", host, port),
    ]
    for service, pools in (("chat", config.chat.pools), ("tts", config.tts.pools), ("stt", config.stt.pools)):
        ports += [
            ConfiguredPort(f"{service}.pools.{name}.metrics_port", LOOPBACK, pool.metrics_port)
            for name, pool in pools.items()
        ]
    return ports


def bind_error(port: ConfiguredPort) -> str | None:
    """Returns why a process cannot listen on a port, or None if it can."""
    if port.number == 0:
        return None
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do; otherwise a port that was just closed would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
            probe.listen(1)
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def check_ports(config: Config) -> None:
    """Raises CommandError for the first port that is taken or configured twice."""
    seen: dict[int, str] = {}
    for port in configured_ports(config):
        if port.number and port.number in seen:
            raise CommandError(
                f"{port.setting}: found {port.number}, which {seen[port.number]} has too; give each its own port",
                ExitCode.PORT_TAKEN,
            )
        seen[port.number] = port.setting
        error = bind_error(port)
        if error:
            raise CommandError(
                f"{port.setting}: port {port.number} on {port.host} cannot be used: {error}",
                ExitCode.PORT_TAKEN,
            )


def free_ports(count: int) -> list[int]:
    """Returns different ports that were free a moment ago."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
