"""What every process opens says what is wrong in one line, and is closed whatever happens."""

import socket

import aiohttp
import pytest

from callboard_kit.lifecycle import StartError
from callboard_kit.resources import ops_server

pytestmark = pytest.mark.unit


async def status(port: int, path: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as reply:
        return reply.status


async def test_window_is_open_inside_the_context_only() -> None:
    async with ops_server("x.metrics_port", 0, lambda: "starting", "127.0.0.1") as ops:
        port = ops.port
        assert (await status(port, "/healthz"), await status(port, "/readyz")) == (200, 503)
    with pytest.raises(aiohttp.ClientConnectorError):
        await status(port, "/healthz")


async def failing(ports: list[int]) -> None:
    async with ops_server("x.metrics_port", 0, lambda: None, "127.0.0.1") as ops:
        ports.append(ops.port)
        raise ValueError("inside")


async def test_window_is_closed_after_a_failure() -> None:
    ports: list[int] = []
    with pytest.raises(ValueError, match="inside"):
        await failing(ports)
    with pytest.raises(aiohttp.ClientConnectorError):
        await status(ports[0], "/healthz")


async def test_taken_port_is_named_with_its_setting() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        with pytest.raises(StartError, match=rf"^x\.metrics_port: {port}: .*in use"):
            async with ops_server("x.metrics_port", port, lambda: None, "127.0.0.1"):
                raise AssertionError("it must not open")
