"""How evenly, how soon and at what cost rooms are heard: `python -m tests.benchmarks.room_streams PART [--seconds N]`.

Speech is tones that are published as speech workers do, so that every seam and every delay can be measured.
"""

import argparse
import asyncio
import logging
import os
import socket
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from callboard_contracts.config import NatsSection
from callboard_contracts.rooms import room_id
from callboard_contracts.speech import AudioSegment
from callboard_contracts.streams import BUCKET_ROOMS
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus
from tests.benchmarks import machine
from tests.benchmarks.figures import Figure, percentile, table, table_of
from tests.benchmarks.icecast import REFERENCE_KBPS, reference_site
from tests.support.audio import Samples, decoded
from tests.support.deployment import Deployment
from tests.support.room_speech import Sound, opened_room, publish, sounds, spoken

PAUSE_S = 0.4
RATE_HZ = 24_000
BITRATE_KBPS = 320
TONES_HZ = (400, 800)
VIEWER_BUFFER_BYTES = 114_688
VIEWER_BUFFER_WITHOUT_FADE_BYTES = 163_840
WARM_UP_S = 5.0
PLAYER_BUFFER_S = 1.0
"""What a media player or a browser keeps ahead."""


@dataclass(slots=True)
class Listener(asyncio.Protocol):
    """A client that notes when how much came; `keeps` the bytes themselves too."""

    bitrate_kbps: int
    keeps: bool = False
    started_at: float = 0.0
    received: int = 0
    data: bytearray = field(default_factory=bytearray)
    arrivals: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    transport: asyncio.BaseTransport | None = None
    _head: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the connection."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Counts what comes after the headers."""
        if self._head is not None:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            assert b" 200 " in head, head
            self._head, self.started_at = None, time.monotonic()
        if self.keeps:
            self.data += data
        self.received += len(data)
        self.arrivals.append((time.monotonic(), len(data)))

    def restart(self) -> None:
        """Forgets what came before."""
        self.arrivals.clear()
        self.started_at = time.monotonic()

    def close(self) -> None:
        """Leaves."""
        if self.transport is not None:
            self.transport.close()

    @property
    def bytes_per_s(self) -> float:
        """What a second of sound takes."""
        return self.bitrate_kbps * 125

    def worst_gap_s(self) -> float:
        """The longest time in which nothing came."""
        times = [at for at, _ in self.arrivals]
        return max((after - before for before, after in pairwise(times)), default=0.0)

    def pacing_s(self) -> tuple[float, float]:
        """How far the sound was ahead of the clock and behind it at most, by its middle value after the burst."""
        ahead: list[float] = []
        got = 0
        for at, size in self.arrivals:
            got += size
            if at - self.started_at > 1.0:
                ahead.append(got / self.bytes_per_s - (at - self.started_at))
        middle = float(np.median(ahead))
        return max(ahead) - middle, middle - min(ahead)

    def arrived_at(self, position: int) -> float:
        """When the byte at a position came."""
        got = 0
        for at, size in self.arrivals:
            got += size
            if got > position:
                return at
        return float("inf")


async def listening(port: int, path: str, bitrate_kbps: int, *, keeps: bool = False) -> Listener:
    """Opens a listener."""
    loop = asyncio.get_running_loop()
    _, listener = await loop.create_connection(lambda: Listener(bitrate_kbps, keeps), "127.0.0.1", port)
    assert isinstance(listener.transport, asyncio.Transport)
    listener.transport.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return listener


@asynccontextmanager
async def site(edges: int = 1) -> AsyncGenerator[tuple[Deployment, Bus]]:
    """A bus and edges that serve rooms."""
    with tempfile.TemporaryDirectory(prefix="callboard-rooms-") as folder:
        config = {"room_stream": {"pause_s": PAUSE_S}, "edge": {"drain_timeout_s": 2}}
        deployment = Deployment(Path(folder), config, log_level="warning")
        try:
            await asyncio.to_thread(lambda: deployment.start(chats=0, speakers=0, quotas=0, edges=edges))
            bus = await Bus.connect(NatsSection(url=deployment.nats.url), "bench", lambda: None)
            await bus.clock.measure()
            yield deployment, bus
            await bus.close()
        finally:
            deployment.abandon()


async def open_rooms(bus: Bus, keys: Sequence[str]) -> None:
    """Opens rooms."""
    bucket = Bucket(bus, BUCKET_ROOMS)
    for key in keys:
        room = opened_room("ait", key)
        await bucket.put(room.id, room.encoded(), 0)


def stream(key: str, bitrate_kbps: int = BITRATE_KBPS) -> str:
    """The path of a room's stream."""
    return f"/ait/stream/{key}?bitrate={bitrate_kbps}"


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def port_of(deployment: Deployment, edge: int = 0) -> int:
    """The port of an edge."""
    return int(deployment.root_url(edge).rpartition(":")[2])


async def even(seconds: float) -> list[Figure]:
    """One room that speaks again and again, a listener from the beginning, one who comes late, and one who stalls."""
    async with site(edges=2) as (deployment, bus):
        await open_rooms(bus, ["pond"])
        port, other_port = port_of(deployment), port_of(deployment, 1)
        first = await listening(port, stream("pond"), BITRATE_KBPS, keeps=True)
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", port))
        stalled.sendall(f"GET {stream('pond')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        # Who joins while somebody begins misses what others hear meanwhile.
        await asyncio.sleep(2)
        until = time.monotonic() + seconds
        late: list[Listener] = []
        number, lengths = 0, list[float]()
        while time.monotonic() < until - 4:
            # Two utterances at once, the second waits for its turn; a third of the time nobody speaks.
            for _ in range(2):
                number += 1
                lengths.append(2.0 + number % 3)
                await publish(bus, room_id("ait", "pond"), spoken(number, lengths[-1], TONES_HZ[number % 2]))
            await asyncio.sleep(1.3)
            if len(late) < 2:
                late.append(await listening((port, other_port)[len(late)], stream("pond"), BITRATE_KBPS, keeps=True))
            await asyncio.sleep(sum(lengths[-2:]) + PAUSE_S + 1.7)
        await asyncio.sleep(3)
        for listener in (first, *late):
            listener.close()
        stalled.close()
    samples = decoded(bytes(first.data), "mp3") * 32_768
    # What an encoder smears over the edges of a sound is no part of it.
    heard = sounds(samples.astype(np.int16), TONES_HZ, quiet=2000)
    pauses = [after.begin_s - before.end_s for before, after in zip(heard[::2], heard[1::2], strict=False)]
    ahead_s, behind_s = first.pacing_s()
    same = bytes(late[0].data[: 200 * BITRATE_KBPS]) in bytes(first.data)
    return [
        Figure("length of the run", seconds, "s"),
        Figure("utterances spoken", number, ""),
        Figure("utterances heard, each in one stretch", len(heard), "", number, "higher"),
        Figure("utterance longer or shorter than spoken, at most", 1000 * _worst(heard, lengths), "ms", 20),
        Figure("silence inside an utterance, at most", _longest_silence_ms(samples, heard), "ms", 10),
        Figure(
            "pause between two utterances off from 400 ms, at most",
            1000 * max(abs(p - PAUSE_S) for p in pauses),
            "ms",
            20,
        ),
        Figure("sound ahead of the clock, at most", 1000 * ahead_s, "ms", 50),
        Figure("sound behind the clock, at most", 1000 * behind_s, "ms", 50),
        Figure("sound in all against the clock", 1000 * _drift_s(first), "ms", 50),
        Figure("late listener got the same frames (1: yes)", float(same), "", 1, "higher"),
        Figure("late listener at another edge, off by", 1000 * _offset_s(first, late[1]), "ms", 50),
    ]


def _worst(heard: Sequence[Sound], lengths: Sequence[float]) -> float:
    return max((abs(one.seconds - length) for one, length in zip(heard, lengths, strict=False)), default=float("inf"))


def _longest_silence_ms(samples: Samples, heard: Sequence[Sound]) -> float:
    window = RATE_HZ // 400
    longest = 0
    for one in heard:
        begin, end = round((one.begin_s + 0.02) * RATE_HZ), round((one.end_s - 0.02) * RATE_HZ)
        part = samples[begin : begin + (end - begin) // window * window].reshape(-1, window)
        run = 0
        for quiet in np.sqrt(np.mean(part**2, axis=1)) < 800:
            run = run + 1 if quiet else 0
            longest = max(longest, run)
    return longest * 2.5


def _drift_s(listener: Listener) -> float:
    """How much the sound of the last second was later than that of the first, against the clock."""
    ahead: list[tuple[float, float]] = []
    got = 0
    for at, size in listener.arrivals:
        got += size
        ahead.append((at, got / listener.bytes_per_s - (at - listener.started_at)))
    first = [value for at, value in ahead if 1 < at - listener.started_at < 3]
    last = [value for at, value in ahead if at > listener.arrivals[-1][0] - 2]
    return abs(float(np.median(last)) - float(np.median(first)))


def _offset_s(first: Listener, second: Listener) -> float:
    """How much later one listener gets the beginning of the next utterance than the other."""
    begun: list[float] = []
    for listener in (first, second):
        samples = (decoded(bytes(listener.data), "mp3") * 32_768).astype(np.int16)
        begins = [one.begin_s for one in sounds(samples, TONES_HZ)]
        begun.append([listener.arrived_at(int(at * listener.bytes_per_s)) for at in begins][-1])
    return abs(begun[1] - begun[0])


async def load(seconds: float, rooms: int, listeners: int) -> list[Figure]:
    """Many rooms with some listeners each, silence, and a speech of five seconds every thirty."""
    async with site() as (deployment, bus):
        keys = [f"room-{n}" for n in range(rooms)]
        await open_rooms(bus, keys)
        pid = deployment.edges[0].running.pid
        before_mb = deployment.edges[0].running.resident_mb
        everybody = [
            await listening(port_of(deployment), stream(key), BITRATE_KBPS) for key in keys for _ in range(listeners)
        ]
        await asyncio.sleep(WARM_UP_S)
        for listener in everybody:
            listener.restart()
        began_cpu, began = cpu_s(pid), time.monotonic()

        async def speak(n: int) -> None:
            await asyncio.sleep(30 * n / rooms)
            for number in range(1, 1000):
                await publish(bus, room_id("ait", keys[n]), spoken(number, 5.0, 400))
                await asyncio.sleep(30)

        speakers = [asyncio.ensure_future(speak(n)) for n in range(rooms)]
        own_delay_s = await _worst_delay_s(seconds)
        spent, length = cpu_s(pid) - began_cpu, time.monotonic() - began
        memory_mb = deployment.edges[0].running.resident_mb
        for speaker in speakers:
            speaker.cancel()
        await asyncio.gather(*speakers, return_exceptions=True)
        gaps = [listener.worst_gap_s() for listener in everybody]
        behind = [listener.pacing_s()[1] for listener in everybody]
        lateness = await metric(deployment, "callboard_edge_room_lateness_seconds")
        for listener in everybody:
            listener.close()
    return [
        Figure("rooms, listeners each", rooms * listeners, ""),
        Figure("length of the run", length, "s"),
        Figure("processor time of the edge", 100 * spent / length, "% of a core"),
        Figure("resident memory of the edge before", before_mb, "MB"),
        Figure("resident memory of the edge", memory_mb, "MB"),
        Figure("longest time in which a listener got nothing", 1000 * max(gaps), "ms", 200),
        Figure("the same, median listener", 1000 * percentile(gaps, 0.5), "ms"),
        Figure("longest time in which the listeners' own process stood still", 1000 * own_delay_s, "ms"),
        Figure("sound behind the clock, worst listener", 1000 * max(behind), "ms", 200),
        Figure("frames sent less than 50 ms late", 100 * lateness, "%"),
    ]


async def _worst_delay_s(seconds: float) -> float:
    """Waits, and returns by how much the machine let this process wait longer than it meant to, at worst."""
    until, worst = time.monotonic() + seconds, 0.0
    while (began := time.monotonic()) < until:
        await asyncio.sleep(0.01)
        worst = max(worst, time.monotonic() - began - 0.01)
    return worst


async def metric(deployment: Deployment, name: str) -> float:
    """The share of a histogram's observations up to 50 ms."""
    port = deployment.edges[0].health_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    found = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)
    }
    return found[f'{name}_bucket{{le="0.05"}}'] / found[f"{name}_count"]


async def idle(seconds: float, rooms: int) -> list[Figure]:
    """Many rooms that were heard once and that nobody hears any more."""
    async with site() as (deployment, bus):
        keys = [f"room-{n}" for n in range(rooms)]
        await open_rooms(bus, keys)
        pid = deployment.edges[0].running.pid
        before_mb = deployment.edges[0].running.resident_mb
        for begin in range(0, rooms, 50):
            some = [await listening(port_of(deployment), stream(key), BITRATE_KBPS) for key in keys[begin : begin + 50]]
            await asyncio.sleep(0.3)
            for listener in some:
                listener.close()
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        began = cpu_s(pid)
        await asyncio.sleep(seconds)
        spent = cpu_s(pid) - began
        return [
            Figure("rooms that were heard", rooms, ""),
            Figure("processor time of the edge while nobody listens", 100 * spent / seconds, "% of a core", 2),
            Figure("resident memory of the edge before", before_mb, "MB"),
            Figure("resident memory of the edge after", deployment.edges[0].running.resident_mb, "MB"),
        ]


@dataclass(frozen=True, slots=True)
class Measured:
    """A listener of one stream, and when each utterance was submitted and where it begins in what he got."""

    name: str
    listener: Listener
    places: list[tuple[float, float]]


async def delays(utterances: int) -> list[Measured]:
    """Utterances that are submitted here and, where Icecast and Liquidsoap are installed, there in the same moment."""
    async with site() as (deployment, bus), reference_site() as reference:
        await open_rooms(bus, ["pond"])
        port = port_of(deployment)
        listeners = {
            f"Callboard, {kbps} kbit/s": await listening(port, stream("pond", kbps), kbps, keeps=True)
            for kbps in (32, 128, 320)
        }
        if reference is not None:
            name = f"Liquidsoap and Icecast, {REFERENCE_KBPS} kbit/s"
            listeners[name] = await listening(reference.port, "/room", REFERENCE_KBPS, keeps=True)
        submitted: list[float] = []
        await asyncio.sleep(3)
        for number in range(1, utterances + 1):
            submitted.append(time.monotonic())
            said = spoken(number, 2.0, TONES_HZ[0], segment_s=0.5)
            await publish(bus, room_id("ait", "pond"), said)
            if reference is not None:
                await reference.play(b"".join(one.content.pcm for one in said if isinstance(one.content, AudioSegment)))
            await asyncio.sleep(5)
        for listener in listeners.values():
            listener.close()
    return [Measured(name, listener, placed(listener, submitted)) for name, listener in listeners.items()]


def placed(listener: Listener, submitted: Sequence[float]) -> list[tuple[float, float]]:
    """When each utterance was submitted, and where it begins in a listener's stream."""
    samples = (decoded(bytes(listener.data), "mp3") * 32_768).astype(np.int16)
    found = [one.begin_s for one in sounds(samples, TONES_HZ, quiet=1000) if one.seconds > 1.0]
    return list(zip(submitted, found, strict=False))


BUFFERS: tuple[tuple[str, Callable[[float], float]], ...] = (
    ("player that begins at once", lambda _rate: 1),
    ("player with 1 s", lambda rate: PLAYER_BUFFER_S * rate),
    ("viewer, 114,688 bytes", lambda _rate: VIEWER_BUFFER_BYTES),
    ("viewer without fade, 163,840 bytes", lambda _rate: VIEWER_BUFFER_WITHOUT_FADE_BYTES),
)


def delay_table(measured: Sequence[Measured]) -> list[str]:
    """From submitting sound to its first sample in a player, by how much the player keeps ahead."""
    rows = [["from sound submitted to heard, median", *(name for name, _ in BUFFERS)]]
    for one in measured:
        cells: list[str] = []
        for _, buffer in BUFFERS:
            begins_at = one.listener.arrived_at(int(buffer(one.listener.bytes_per_s)))
            heard = [begins_at + position_s - at for at, position_s in one.places]
            cells.append(f"{percentile(heard, 0.5):.2f} s" if heard else "nothing heard")
        rows.append([one.name, *cells])
    return table_of(rows)


def main() -> None:
    """Measures one part and prints it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.room_streams", description=__doc__)
    parser.add_argument("part", choices=("even", "load", "idle", "delay"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rooms", type=int, default=50)
    parser.add_argument("--listeners", type=int, default=4)
    arguments = parser.parse_args()
    logging.getLogger("callboard_kit").setLevel(logging.ERROR)
    print(*machine.description(), sep="\n")
    if arguments.part == "delay":
        lines = delay_table(asyncio.run(delays(max(3, int(arguments.seconds / 5)))))
    else:
        work = {
            "even": lambda: even(arguments.seconds),
            "load": lambda: load(arguments.seconds, arguments.rooms, arguments.listeners),
            "idle": lambda: idle(arguments.seconds, arguments.rooms),
        }[arguments.part]
        lines = table(asyncio.run(work()))
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
