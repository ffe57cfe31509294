"""Decodes files in processes of their own; one is always ready, so that no request waits for it to start."""

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process

import numpy as np

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_stt import metrics
from callboard_stt.backends.decoder_process import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from callboard_stt.domain.ports import Sound

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "callboard_stt.backends.decoder_process")
INHERITED = ("LD_LIBRARY_PATH", "PATH", "PYTHONPATH")
"""What the process sees of the environment: no secrets."""
READ_BYTES = 1024 * 1024
SPARE_BYTES = 16 * 1024 * 1024
"""So much more than the longest sound may come before the process is ended; one frame can be long."""
MAX_REPORT_BYTES = 4096
END_TIMEOUT_S = 20.0
"""How long a decoder may take to end once it has said everything."""
_PROBLEMS = {
    "silent_film": "The file is a film without sound.",
    "unreadable": "The file is not a sound that can be read, or it is damaged.",
    "too_long": "The sound is longer than the {max_s:g} s that a request may have.",
}


class ProcessDecoder:
    """A decoder whose faults, and whose memory, are not this process's; `max_s` is the longest sound."""

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self.spare: asyncio.Task[Process] | None = None
        """The process that waits for the next file."""

    async def start(self) -> None:
        """Starts the process that waits for the first file."""
        self.spare = asyncio.ensure_future(self._started())

    async def close(self) -> None:
        """Ends the process that waits."""
        if self.spare is not None:
            spare, self.spare = self.spare, None
            await _end(await spare)

    async def decode(self, file: bytes) -> Sound:
        """The sound of a file; see `SoundDecoder`."""
        process = await self._take()
        try:
            pcm, report = await self._run(process, file)
        finally:
            await _end(process)
            if self.spare is None:
                # Not before, since its start would take time from the sound at hand.
                await self.start()
        container, problem = report.get("container") or "", report.get("problem")
        if problem is not None:
            known = problem if problem in _PROBLEMS else "unreadable"
            metrics.UNREADABLE.labels(known).inc()
            message = _PROBLEMS[known].format(max_s=self._max_s)
            raise CallboardError(ErrorCode.INVALID_REQUEST, message, param="file")
        return Sound(np.frombuffer(pcm, np.int16), file, container)

    async def _run(self, process: Process, file: bytes) -> tuple[bytes, dict[str, str | None]]:
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_write(stdin, file))
                most = int(self._max_s * SAMPLE_RATE_HZ) * BYTES_PER_SAMPLE + SPARE_BYTES
                pcm = group.create_task(_read(stdout, most))
                report = group.create_task(_read(stderr, MAX_REPORT_BYTES))
            # It ends by itself now. To kill it in this moment would take its exit code from asyncio.
            await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
            return pcm.result(), json.loads(report.result())
        except (ValueError, TimeoutError, ExceptionGroup):
            log.warning("decoder_died", extra={"code": process.returncode})
            return b"", {"problem": "unreadable"}

    async def _take(self) -> Process:
        """A process that waits for its file."""
        starting, self.spare = self.spare or asyncio.ensure_future(self._started()), None
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            if self.spare is None:
                self.spare = starting
            else:
                starting.cancel()
            raise
        return process if process.returncode is None else await self._started()

    async def _started(self) -> Process:
        environ = {name: value for name in INHERITED if (value := os.environ.get(name)) is not None}
        return await asyncio.create_subprocess_exec(
            *COMMAND, str(self._max_s), stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environ
        )


async def _write(stdin: asyncio.StreamWriter, file: bytes) -> None:
    try:
        stdin.write(file)
        await stdin.drain()
        stdin.close()
    except ConnectionError:
        # It ended before it had read the file, and says why or has died.
        return


async def _read(stream: asyncio.StreamReader, max_bytes: int) -> bytes:
    """All that comes; raises ValueError where that is more than it can be."""
    found = bytearray()
    while part := await stream.read(READ_BYTES):
        found += part
        if len(found) > max_bytes:
            raise ValueError("the decoder says too much")
    return bytes(found)


async def _end(process: Process) -> None:
    """Ends a process, whatever it is at; its end is waited for even where the caller was cancelled."""
    if process.returncode is None:
        try:
            process.kill()
        except ProcessLookupError:
            return
        await asyncio.shield(process.wait())
