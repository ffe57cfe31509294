"""Ports and the store of a single machine."""

import os
import socket
from pathlib import Path

import pytest

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.up.ports import bus_address, check_ports, free_ports
from callboard_cli.up.store import StoreLock
from callboard_contracts.config import Config

pytestmark = pytest.mark.unit


def on_ports(edge: int = 0, bus: int = 0) -> Config:
    bus = bus or free_ports(1)[0]
    return Config.model_validate(
        {
            "edge": {"port": edge, "metrics_port": 0},
            "quota": {"metrics_port": 0},
            "nats": {"url": f"nats://127.0.0.1:{bus}"},
        }
    )


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        with pytest.raises(CommandError) as failure:
            check_ports(on_ports(edge=port))
    assert str(failure.value) == f"edge.port: port {port} on 127.0.0.1 cannot be used: address already in use"
    assert failure.value.code == ExitCode.PORT_TAKEN


def test_free_ports_pass_and_stay_free() -> None:
    port = free_ports(1)[0]
    check_ports(on_ports(edge=port))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        assert holder.getsockname()[1] == port


def test_one_port_for_two_is_refused() -> None:
    port = free_ports(1)[0]
    with pytest.raises(CommandError, match=f"nats.url: found {port}, which edge.port has too"):
        check_ports(on_ports(edge=port, bus=port))


@pytest.mark.parametrize(
    "url", ["nats://bus.example:4222", "nats://127.0.0.1:4222,127.0.0.1:4223", "nats://127.0.0.1:x"]
)
def test_a_bus_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(CommandError, match=r"allowed is nats://127\.0\.0\.1"):
        bus_address(Config.model_validate({"nats": {"url": url}}))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("nats://localhost:5000", ("127.0.0.1", 5000)),
        ("nats://127.0.0.1", ("127.0.0.1", 4222)),
        ("nats://[::1]:4222", ("::1", 4222)),
    ],
)
def test_a_bus_on_this_machine_is_taken(url: str, address: tuple[str, int]) -> None:
    assert bus_address(Config.model_validate({"nats": {"url": url}})) == address


def test_a_held_store_names_its_holder(tmp_path: Path) -> None:
    first, second = StoreLock(tmp_path / "var"), StoreLock(tmp_path / "var")
    first.acquire()
    with pytest.raises(CommandError) as failure:
        second.acquire()
    assert f"is in use by process {os.getpid()}; stop it or set site.data_dir" in str(failure.value)
    assert failure.value.code == ExitCode.STORE_LOCKED
    first.release()
    second.acquire()
    second.release()


def test_a_store_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match=r"set site\.data_dir"):
        StoreLock(tmp_path / "file" / "var").acquire()
