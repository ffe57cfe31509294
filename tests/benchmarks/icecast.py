"""Liquidsoap and Icecast on loopback, set up as AI Talkmaster's own server has them, for a comparison in one run."""

import asyncio
import itertools
import os
import shutil
import tempfile
import wave
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.children import Child
from tests.support.ports import free_port

REFERENCE_KBPS = 32
BURST_BYTES = 65_535
USER, GROUP = "nobody", "nogroup"
"""Neither program runs as root."""
START_TIMEOUT_S = 90.0
FILL_S = 18.0
"""Until as much was sent as Icecast gives to a new listener at once."""

ICECAST = """\
<icecast>
  <limits><burst-size>{burst}</burst-size><queue-size>524288</queue-size></limits>
  <authentication><source-password>bench</source-password><admin-password>bench</admin-password></authentication>
  <hostname>127.0.0.1</hostname>
  <listen-socket><port>{port}</port><bind-address>127.0.0.1</bind-address></listen-socket>
  <paths><basedir>/usr/share/icecast2</basedir><logdir>{folder}</logdir><webroot>/usr/share/icecast2/web</webroot>
    <adminroot>/usr/share/icecast2/admin</adminroot></paths>
  <logging><accesslog>access.log</accesslog><errorlog>error.log</errorlog><loglevel>2</loglevel></logging>
</icecast>
"""
LIQUIDSOAP = """\
settings.server.telnet.set(true)
settings.server.telnet.bind_addr.set("127.0.0.1")
settings.server.telnet.port.set({control})
settings.log.file.set(false)
queue = request.queue(id="room")
radio = fallback(track_sensitive=false, [queue, blank()])
output.icecast(%mp3(bitrate={kbps}, samplerate=22050, stereo=false), host="127.0.0.1", port={port}, password="bench",
  mount="room", radio)
"""


@dataclass(slots=True)
class ReferenceSite:
    """Both programs; `play` has Liquidsoap play PCM at the end of its queue."""

    port: int
    control_port: int
    folder: Path
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def play(self, pcm: bytes) -> None:
        """Writes a file and puts it into the queue."""
        file = self.folder / f"{next(self._numbers)}.wav"
        with wave.open(str(file), "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(2)
            writer.setframerate(24_000)
            writer.writeframes(pcm)
        file.chmod(0o644)
        reader, control = await asyncio.open_connection("127.0.0.1", self.control_port)
        control.write(f"room.push {file}\nexit\n".encode())
        await reader.read()
        control.close()


@asynccontextmanager
async def reference_site() -> AsyncGenerator[ReferenceSite | None]:
    """Starts both where Debian's packages are installed; else nothing."""
    if shutil.which("icecast2") is None or shutil.which("liquidsoap") is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="callboard-icecast-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        site = ReferenceSite(free_port(), free_port(), folder)
        (folder / "icecast.xml").write_text(ICECAST.format(burst=BURST_BYTES, port=site.port, folder=folder))
        (folder / "room.liq").write_text(
            LIQUIDSOAP.format(control=site.control_port, port=site.port, kbps=REFERENCE_KBPS)
        )
        as_user = (
            ["setpriv", f"--reuid={USER}", f"--regid={GROUP}", "--clear-groups", "--inh-caps=-all"]
            if os.getuid() == 0
            else []
        )
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        icecast = Child([*as_user, "icecast2", "-c", str(folder / "icecast.xml")], folder / "icecast.log", environ)
        await asyncio.sleep(2)
        liquidsoap = Child([*as_user, "liquidsoap", str(folder / "room.liq")], folder / "liquidsoap.log", environ)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await _on_air(site.port):
                    if not (icecast.alive and liquidsoap.alive):
                        raise RuntimeError(icecast.output()[-1000:] + liquidsoap.output()[-1000:])
                    await asyncio.sleep(0.5)
            await asyncio.sleep(FILL_S)
            yield site
        finally:
            await asyncio.to_thread(liquidsoap.stop)
            await asyncio.to_thread(icecast.stop)


async def _on_air(port: int) -> bool:
    """Whether the stream can be listened to."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /room HTTP/1.0\r\n\r\n")
    status = await reader.readline()
    writer.close()
    return b" 200 " in status
