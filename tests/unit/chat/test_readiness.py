"""What a worker makes of what stands in its engine's place."""

import asyncio
from contextlib import suppress
from typing import cast

import pytest

from callboard_chat import app
from callboard_chat.app import Readiness
from callboard_chat.domain.ports import ChatEngine

pytestmark = pytest.mark.unit


class Fickle:
    """Is ready, or raises, as it is told."""

    def __init__(self) -> None:
        self.answers: list[str | Exception | None] = [AttributeError("page"), ValueError("page"), "loading", None]

    async def ready(self) -> str | None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_engine_whose_answer_makes_no_sense_is_not_ready_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "UNREADY_INTERVAL_S", 0.01)
    readiness = Readiness()
    seen: list[str | None] = []
    watching = asyncio.ensure_future(
        app._watch_engine(cast("ChatEngine", Fickle()), "openai", readiness)  # pyright: ignore[reportPrivateUsage]
    )
    async with asyncio.timeout(5):
        while readiness.engine is not None:
            if not seen or seen[-1] != readiness.engine:
                seen.append(readiness.engine)
            await asyncio.sleep(0.002)
    assert seen[-3:] == ["engine: AttributeError", "engine: ValueError", "loading"]
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
