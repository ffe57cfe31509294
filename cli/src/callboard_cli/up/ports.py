"""Ports on this machine: which are taken, and which are free."""

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from callboard_cli.failures import CommandError, ExitCode
from callboard_contracts.config import Config

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A port that the configuration asks for; 0 means any."""

    setting: str
    host: str
    port: int


def bus_address(config: Config) -> tuple[str, int]:
    """Where the bus of a single machine listens; raises CommandError when the configuration names one elsewhere."""
    url = urlsplit(config.nats.url)
    host = "127.0.0.1" if url.hostname == "localhost" else url.hostname or ""
    try:
        loopback = ip_address(host).is_loopback and "," not in config.nats.url
        port = url.port or 4222
    except ValueError:
        loopback, port = False, 0
    if not loopback:
        raise CommandError(
            f"nats.url: found {config.nats.url!r}, but `up` starts a bus of its own on this machine: allowed is "
            "nats://127.0.0.1:<port>",
            ExitCode.USAGE,
        )
    return host, port


def wanted_ports(config: Config) -> list[Wanted]:
    """Every port that the configuration fixes."""
    host, port = bus_address(config)
    wanted = [
        Wanted("edge.port", config.edge.host, config.edge.port),
        Wanted("edge.metrics_port", LOOPBACK, config.edge.metrics_port),
        Wanted("quota.metrics_port", LOOPBACK, config.quota.metrics_port),
        Wanted("nats.url", host, port),
    ]
    for service, pools in (("chat", config.chat.pools), ("tts", config.tts.pools)):
        wanted += [
            Wanted(f"{service}.pools.{name}.metrics_port", LOOPBACK, pool.metrics_port) for name, pool in pools.items()
        ]
    return wanted


def trouble_with(wanted: Wanted) -> str | None:
    """Why a process could not listen on a port, or None where it could."""
    if wanted.port == 0:
        return None
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do; without it a port that was just left would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((wanted.host, wanted.port))
            probe.listen(1)
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def check_ports(config: Config) -> None:
    """Raises CommandError for the first port that is taken, or that the configuration asks for twice."""
    seen: dict[int, str] = {}
    for wanted in wanted_ports(config):
        if wanted.port and wanted.port in seen:
            raise CommandError(
                f"{wanted.setting}: found {wanted.port}, which {seen[wanted.port]} has too; give each its own port",
                ExitCode.PORT_TAKEN,
            )
        seen[wanted.port] = wanted.setting
        trouble = trouble_with(wanted)
        if trouble:
            raise CommandError(
                f"{wanted.setting}: port {wanted.port} on {wanted.host} cannot be used: {trouble}", ExitCode.PORT_TAKEN
            )


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
