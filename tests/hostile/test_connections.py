"""Connections that are flooded, dribbled at, abandoned or misused, from an address without a key."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable

import pytest

from tests.hostile import connections
from tests.hostile.conftest import TIMEOUT_S, Siege
from tests.hostile.site import STRANGER
from tests.hostile.targets import ordinary
from tests.protocols.dialect import Dialect

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(TIMEOUT_S)]

FAILED = re.compile(rb"HTTP/1\.1 5\d\d ")
BUSY = re.compile(rb"HTTP/1\.1 503 .*?\r\nRetry-After: \d+\r\n", re.DOTALL | re.IGNORECASE)


async def test_what_is_no_request_harms_nobody(siege: Siege) -> None:
    site = siege.site
    ends = 0

    async def attack(chance: random.Random) -> None:
        nonlocal ends
        for raw in connections.no_requests(chance.choice(site.dialects()), chance):
            async with connections.connected(site.port) as connection:
                await connection.send(raw)
                connection.finish_sending()
                try:
                    answer = await connection.answer()
                except TimeoutError:
                    site.fault("neither answered nor closed", raw)
                    continue
            ends += 1
            if FAILED.search(answer):
                site.fault(f"failed: {answer[:200]!r}", raw)

    await siege.withstand(0.08, attack)
    assert ends > 0


async def test_clients_that_flood_dribble_or_vanish_harm_nobody(siege: Siege) -> None:
    site, port = siege.site, siege.site.port

    async def unfinished(dialect: Dialect, chance: random.Random) -> None:
        for answer in await connections.unfinished_bodies(port, dialect.path, chance.choice([4, 20, 40])):
            if FAILED.match(answer) and not BUSY.match(answer):
                site.fault(f"failed: {answer[:200]!r}", b"an unfinished body")

    async def idle(_dialect: Dialect, _chance: random.Random) -> None:
        await connections.idle_connections(port)

    async def dribbled(dialect: Dialect, _chance: random.Random) -> None:
        await connections.dribbled_headers(port, dialect.path, 100)

    async def vanishing(dialect: Dialect, chance: random.Random) -> None:
        raw = connections.whole(ordinary(dialect, stream=chance.random() < 0.5))
        await connections.vanishing(port, raw, 20, chance)

    async def cut(dialect: Dialect, chance: random.Random) -> None:
        raw = connections.whole(ordinary(dialect, stream=True), "Connection: close")
        await connections.cut_streams(port, raw, 8, chance)

    async def half_closed(dialect: Dialect, _chance: random.Random) -> None:
        raw = connections.whole(ordinary(dialect), "Connection: close")
        answer = await connections.half_closed(port, raw)
        if not re.match(rb"HTTP/1\.1 (200|429) ", answer):
            site.fault(f"a client that had only finished sending: {answer[:200]!r}", raw)

    async def not_reading(dialect: Dialect, chance: random.Random) -> None:
        pages = (b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", connections.whole(ordinary(dialect, stream=True)))
        await connections.not_reading(port, chance.choice(pages), 20)

    async def keyless(dialect: Dialect, chance: random.Random) -> None:
        request = ordinary(dialect, stream=chance.random() < 0.5)
        key = chance.choice(["", "", f"cb_{chance.getrandbits(64):x}"])
        async with site.attackers(address=STRANGER) as session:
            sending = [
                site.send(session, dialect, request.path, request.body, key=key, busy_allowed=True) for _ in range(150)
            ]
            await asyncio.gather(*sending)

    kinds: list[Callable[[Dialect, random.Random], Awaitable[None]]] = [
        unfinished, idle, dribbled, vanishing, cut, half_closed, not_reading, keyless,
    ]  # fmt: skip
    left: list[Callable[[Dialect, random.Random], Awaitable[None]]] = []

    async def attack(chance: random.Random) -> None:
        if not left:
            left.extend(chance.sample(kinds, len(kinds)))
        await left.pop()(chance.choice(site.dialects()), chance)

    # Each kind comes once at least, however short the time is; only the floods without a key are counted as answered.
    assert await siege.withstand(0.22, attack, rounds=len(kinds)) > 0
