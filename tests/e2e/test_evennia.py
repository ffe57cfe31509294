"""Evennia's own character and client, under Twisted, talk to an edge: what the player reads is what was said."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.unit.edge.harness import frames, running

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

SETTING = "CALLBOARD_EVENNIA_PYTHON"
"""An interpreter that has the package `evennia`, which has too many requirements for this environment."""
GAME = Path(__file__).parents[1] / "support" / "evennia_game.py"
SPEECHES = ("Is the flour ready?", "And the {bread}?", "Bye.")


async def test_character_answers_with_its_own_words_and_remembers(tmp_path: Path) -> None:
    python = os.environ.get(SETTING)
    if not python:
        pytest.skip(f"{SETTING} names no interpreter with Evennia (pip install evennia)")
    replies = (("Mo: By noon,", " {wind} willing.\nAda: Good."), (" Baked.",), ())
    async with running() as harness:

        async def work() -> list[str]:
            prompts: list[str] = []
            for reply in replies:
                while not harness.jobs.queued:
                    await asyncio.sleep(0.05)
                prompts.append((await harness.worker(frames(*reply))).request.prompt)
            return prompts

        worker = asyncio.ensure_future(work())
        harness.workers.append(worker)
        game = await asyncio.create_subprocess_exec(
            python, str(GAME), str(tmp_path), harness.url, *SPEECHES,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(240):
            printed, errors = await game.communicate()
        assert game.returncode == 0, errors.decode()[-3000:]
        prompts = await worker
    heard = [line.partition(": ")[2] for line in json.loads(printed)]
    assert heard[:2] == ["By noon, (wind) willing.", "Baked."]
    assert len(heard) == 3
    *_, first, second, third, fourth, last = prompts[-1].split("\n")
    assert (first, third) == ("Ada: Is the flour ready?", "Ada: And the {bread}?")
    assert (second, fourth, last) == ("Mo: By noon, (wind) willing.", "Mo: Baked.", "Ada: Bye.")
