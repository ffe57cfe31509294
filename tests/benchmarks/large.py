"""What one machine carries: a very long prompt, thousands of open streams and idle connections, thousands of rooms."""

import asyncio
import json
import random
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from callboard_contracts.config import EdgeSection, NatsSection, RoomStreamSection
from callboard_contracts.rooms import room_id
from callboard_kit.bus import Bus
from tests.benchmarks.crowd import Client, Engine
from tests.benchmarks.figures import Figure, percentile, table
from tests.benchmarks.room_streams import Listener, listening, open_rooms, port_of, stream
from tests.support.children import Child
from tests.support.deployment import Deployment
from tests.support.room_speech import publish as publish_speech
from tests.support.room_speech import spoken
from tests.support.stub_chat import numbered

MODEL = "owl"
LONG_PROMPT_TOKENS = 100_000
CHARACTERS_PER_TOKEN = 4
PROMPTS = 20
STREAMS = 2_000
STREAMS_AT_ONCE = 50
CHATS = 2
"""A chat worker has 1,024 slots at most."""
TOKENS, TOKEN_S = 60, 1.0
"""Each stream gets so many tokens, one after so long."""
IDLE = 5_000
SLOTS = 1_024
ROOMS, HEARD_ROOMS, LISTENERS, EDGES = 10_000, 200, 1_000, 4
ROOM_KBPS = 64
ROOM_S = 30.0
SPEECH_S = 4.0
FILES = 16_000
ANSWER_TIMEOUT_S = 120.0
NOTES = f"""\
One edge, two chat workers and one quota process; the engine, the clients and the bus share the machine. The long prompt
is one message of {LONG_PROMPT_TOKENS * CHARACTERS_PER_TOKEN:,} characters, about {LONG_PROMPT_TOKENS:,} tokens, with a
daily limit that counts it; the streams get a token each second, and the gap is the longest time that one waited for the
next. Of the rooms {HEARD_ROOMS} are heard, over {EDGES} edges, and each of these is spoken in once. Below each table
stands how far what bounds it was used, and so what gives way first when there is more.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """What one part came to, and how far each thing that bounds it was used."""

    title: str
    figures: list[Figure]
    used: dict[str, float]

    def lines(self) -> list[str]:
        """The part of the page."""
        return [f"### {self.title}", "", *table(self.figures), "", gives_way(self.used)]


def gives_way(used: Mapping[str, float]) -> str:
    """A sentence with the share of each bound that was used, and which of them is reached first."""
    ordered = sorted(used.items(), key=lambda one: -one[1])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in ordered)
    return f"Used of what there is: {shares}. The first to give way: {ordered[0][0]}."


def measure(folder: Path, *, quick: bool) -> list[Part]:
    """Measures the three in turn; `quick` with a tenth of the clients."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    part = 10 if quick else 1
    engine = Engine(folder / "engine.log")
    ample = {"tokens_per_day": 10**12}
    config: dict[str, Any] = {
        "chat": {
            "pools": {"main": {"backend": "openai", "url": engine.url, "slots": SLOTS, "max_queued_per_tenant": 4096}},
            "models": {MODEL: {"pool": "main"}},
        },
        "edge": {"max_connections": 2 * (STREAMS + IDLE)},
        "quota": {"tiers": {"anonymous": {}, "standard": ample}},
    }
    deployment = Deployment(folder / "large", config, log_level="warning")
    try:
        deployment.start(speakers=0, chats=CHATS)
        key = deployment.create_key("standard")
        parts = [asyncio.run(_prompts(deployment, engine, key, PROMPTS // part + 3))]
        parts.append(asyncio.run(_streams(deployment, engine, key, STREAMS // part, IDLE // part)))
        deployment.stop()
    finally:
        deployment.abandon()
        engine.close()
    rooms = Deployment(folder / "rooms", {"edge": {"drain_timeout_s": 2}}, log_level="warning")
    try:
        rooms.start(chats=0, speakers=0, quotas=0, edges=EDGES)
        parts.append(asyncio.run(_rooms(rooms, ROOMS // part, HEARD_ROOMS // part, LISTENERS // part)))
    finally:
        rooms.abandon()
    return parts


def _request(deployment: Deployment, key: str, prompt: str) -> bytes:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 100, "stream": True}
    body = json.dumps(asked).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {deployment.root_url(0)[7:]}\r\nAuthorization: Bearer {key}\r\n"
    )
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _open(port: int, request: bytes) -> Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(request), "127.0.0.1", port)
    return client


async def _ended(clients: Sequence[Client]) -> None:
    """Waits for the ends; one that has not come after a long time counts as a failure."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_TIMEOUT_S + TOKENS * TOKEN_S):
            await asyncio.gather(*(client.ended.wait() for client in clients))
    for client in clients:
        if not client.ended.is_set():
            client.failed = client.failed or "no end"
        if client.transport is not None:
            client.transport.close()


async def _prompts(deployment: Deployment, engine: Engine, key: str, count: int) -> Part:
    """Asks with a short and a very long prompt in turn, one at a time."""
    engine.plays(numbered(8))
    port, edge = port_of(deployment), deployment.edges[0].running
    words = random.Random(1).choices(["storm", "light", "curtain", "prompt", "owl"], k=LONG_PROMPT_TOKENS)
    long = " ".join(words)[: LONG_PROMPT_TOKENS * CHARACTERS_PER_TOKEN]
    before_mb = edge.resident_mb
    spent, began = _cpu_s([edge]), time.monotonic()
    first_s: dict[str, list[float]] = {"short": [], "long": []}
    for _ in range(count):
        for name, prompt in (("short", "Which line comes after the storm?"), ("long", long)):
            client = await _open(port, _request(deployment, key, prompt))
            await _ended([client])
            assert not client.failed, client.failed
            first_s[name].append(client.first_s)
    figures = [
        Figure("first token of a short prompt, p50", 1000 * percentile(first_s["short"], 0.5), "ms"),
        Figure("first token of the long prompt, p50", 1000 * percentile(first_s["long"], 0.5), "ms"),
        Figure("the same, at worst", 1000 * max(first_s["long"]), "ms"),
        Figure("resident memory of the edge before", before_mb, "MB"),
        Figure("resident memory of the edge after", edge.resident_mb, "MB"),
    ]
    size = len(_request(deployment, key, long)) / EdgeSection().max_body_bytes
    used = {"the edge's largest body": size, "a core by the edge": _shares([edge], spent, began)[0] / 100}
    return Part("A prompt of 100,000 tokens", figures, used)


async def _streams(deployment: Deployment, engine: Engine, key: str, count: int, idle_count: int) -> Part:
    """Opens idle connections, then streams, and asks as a neighbour of all of them."""
    port, edge = port_of(deployment), deployment.edges[0].running
    chats = [chat.running for chat in deployment.chats]
    empty_mb = edge.resident_mb
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(idle_count)]
    await asyncio.sleep(1)
    idle_mb = edge.resident_mb
    engine.plays(numbered(TOKENS, delay_s=TOKEN_S))
    request = _request(deployment, key, "Which line comes after the storm?")
    clients: list[Client] = []
    for _ in range(0, count, STREAMS_AT_ONCE):
        clients += await asyncio.gather(*(_open(port, request) for _ in range(STREAMS_AT_ONCE)))
        await asyncio.sleep(10 * STREAMS_AT_ONCE / count)
    await asyncio.sleep(5)
    spent, began = _cpu_s((edge, *chats)), time.monotonic()
    psutil.cpu_percent()
    own_s = time.process_time()
    await asyncio.sleep(15)
    own = (time.process_time() - own_s) / (time.monotonic() - began)
    machine = psutil.cpu_percent() / 100
    shares = _shares((edge, *chats), spent, began)
    open_mb = edge.resident_mb
    await _ended(clients)
    answered = [client for client in clients if not client.failed and len(client.pieces) >= TOKENS // 2]
    for _, writer in idle:
        writer.close()
    begun = [client for client in clients if client.pieces]
    if not begun:
        raise RuntimeError(f"no stream began: {clients[0].failed}")
    firsts, gaps = [one.first_s for one in begun], [one.gap_s for one in begun]
    figures = [
        Figure("idle connections", idle_count, ""),
        Figure("resident memory of the edge before", empty_mb, "MB"),
        Figure("the same with the idle connections", idle_mb, "MB"),
        Figure("streams open at once", count, ""),
        Figure("streams that were answered whole", len(answered), "", count, "higher"),
        Figure("the same with the streams too", open_mb, "MB"),
        Figure("first token, p50", percentile(firsts, 0.5), "s"),
        Figure("first token, p99", percentile(firsts, 0.99), "s"),
        Figure("longest gap between tokens, p50 of streams", percentile(gaps, 0.5), "s"),
        Figure("longest gap between tokens, p99 of streams", percentile(gaps, 0.99), "s"),
        Figure("processor time of the edge", shares[0], "% of a core"),
        Figure("processor time of both chat workers", sum(shares[1:]), "% of a core"),
    ]
    used = {
        "the machine, clients and engine included": machine,
        "a core by the edge": shares[0] / 100,
        "a core by a chat worker": max(shares[1:]) / 100,
        "a core by the clients": own,
        f"the {SLOTS} slots of each chat worker": count / (CHATS * SLOTS),
    }
    return Part(f"{count:,} streams and {idle_count:,} idle connections on one edge", figures, used)


async def _rooms(deployment: Deployment, count: int, heard: int, listener_count: int) -> Part:
    """Opens rooms, listens to some of them over all edges, and has each of these spoken in."""
    bus = await Bus.connect(NatsSection(url=deployment.nats.url), "bench", lambda: None)
    await bus.clock.measure()
    running = [edge.running for edge in deployment.edges]
    before_mb = [one.resident_mb for one in running]
    keys = [f"room-{n}" for n in range(count)]
    for begin in range(0, count, 100):
        await asyncio.gather(*(open_rooms(bus, [key]) for key in keys[begin : begin + 100]))
    opened_mb = [one.resident_mb for one in running]
    everybody: list[Listener] = []
    for n in range(listener_count):
        path = stream(keys[n % heard], ROOM_KBPS)
        everybody.append(await listening(port_of(deployment, n % len(running)), path, ROOM_KBPS))
    await asyncio.sleep(5)
    for listener in everybody:
        listener.restart()
    spent, began = _cpu_s(running), time.monotonic()
    psutil.cpu_percent()

    async def speak(n: int) -> None:
        await asyncio.sleep((ROOM_S - 2 * SPEECH_S) * n / heard)
        await publish_speech(bus, room_id("ait", keys[n]), spoken(1, SPEECH_S, 400))

    await asyncio.gather(*(speak(n) for n in range(heard)))
    await asyncio.sleep(max(0.0, began + ROOM_S - time.monotonic()))
    machine = psutil.cpu_percent() / 100
    shares = _shares(running, spent, began)
    heard_mb = [one.resident_mb for one in running]
    gaps = [listener.worst_gap_s() for listener in everybody]
    silent = sum(not listener.arrivals for listener in everybody)
    for listener in everybody:
        listener.close()
    await bus.close()
    figures = [
        Figure("rooms open", count, ""),
        Figure("listeners, over all edges", listener_count, ""),
        Figure("listeners that heard nothing", silent, ""),
        Figure("longest time in which a listener got nothing, p50", 1000 * percentile(gaps, 0.5), "ms"),
        Figure("longest time in which a listener got nothing, p99", 1000 * percentile(gaps, 0.99), "ms"),
        Figure("resident memory of an edge before", max(before_mb), "MB"),
        Figure("the same with all rooms open", max(opened_mb), "MB"),
        Figure("the same with the listeners", max(heard_mb), "MB"),
        Figure("processor time of all edges", sum(shares), "% of a core"),
    ]
    bounds, edges = RoomStreamSection(), len(running)
    used = {
        "the machine, clients included": machine,
        "a core by an edge": max(shares) / 100,
        f"the {bounds.max_encoders} rooms that an edge encodes": heard / edges / bounds.max_encoders,
        f"the {bounds.max_listeners} listeners of an edge": listener_count / edges / bounds.max_listeners,
    }
    return Part(f"{count:,} rooms, {listener_count:,} listeners, {edges} edges", figures, used)


def _cpu_s(running: Sequence[Child]) -> list[float]:
    return [one.cpu_s for one in running]


def _shares(running: Sequence[Child], spent: Sequence[float], began: float) -> list[float]:
    """The processor time of each since then, in per cent of a core."""
    length = time.monotonic() - began
    return [100 * (after - before) / length for before, after in zip(spent, _cpu_s(running), strict=True)]
