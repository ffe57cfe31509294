"""`callboard volunteer` as a process: its key from the environment, and the signal to end."""

import asyncio
import os
import signal
import sys

import pytest

from tests.unit.cli.volunteer_stubs import JOB, StubEngine, StubHorde, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

KEY = "cb_volunteer_secret"


async def test_process_that_is_told_to_end_hands_in_its_job_first() -> None:
    gate = asyncio.Event()
    horde, engine = StubHorde([JOB, JOB], node="callboard"), StubEngine("ollama", gate=gate)
    async with serving(horde.handle) as horde_url, serving(engine.handle) as engine_url:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "callboard_cli", "volunteer", "--name", "barn", "--model", "owl"),
            *("--server", horde_url, "--engine", engine_url),
            env={**os.environ, "CALLBOARD_VOLUNTEER_KEY": KEY},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(60):
                while not horde.of("generate/text/progress"):
                    await asyncio.sleep(0.02)
                process.send_signal(signal.SIGTERM)
                # The signal arrives while the engine writes; the end of the text comes after it.
                await asyncio.sleep(0.2)
                gate.set()
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    told = output.decode()
    assert process.returncode == 0, told
    assert [body["generation"] for body in horde.of("generate/text/submit")] == [" sat in the oak."]
    assert len(horde.of("generate/text/pop")) == 1
    assert all(headers["apikey"] == KEY for _, headers, _ in horde.asked)
    assert "working for ada#7" in told
    assert "ended: 1 texts, 0 faults, 0 dropped, 4.5 kudos" in told
    assert not any(secret in told for secret in (KEY, "An owl", "in the oak"))
