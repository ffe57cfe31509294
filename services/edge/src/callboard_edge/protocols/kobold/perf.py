"""`/api/extra/perf`: how the last reply of this edge went, and what it does now."""

import time

from aiohttp import web

from callboard_contracts.chat import ChatEnd
from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route

STOP_REASONS = {"length": 0, "stop": 1}
"""KoboldCpp's numbers for why a reply ended; 2 is a stop sequence, -1 anything else."""


class Performance(AnswerBody):
    """Figures of this process; durations in seconds, speeds in tokens a second."""

    last_process: float
    last_eval: float
    last_token_count: int
    last_input_count: int
    last_process_time: float
    last_eval_time: float
    last_process_speed: float
    last_eval_speed: float
    last_seed: int
    last_draft_success: int
    last_draft_failed: int
    total_gens: int
    total_img_gens: int
    total_tts_gens: int
    total_transcribe_gens: int
    stop_reason: int
    queue: int
    idle: int
    hordeexitcounter: int
    uptime: float
    idletime: float
    quiet: bool


class Figures:
    """Counts what this process answered."""

    def __init__(self) -> None:
        self._started_s = self._ended_s = time.monotonic()
        self._ended = 0
        self.transcribed = 0
        """How many sounds were written down."""
        self._last = ChatEnd(reason="cancelled")

    def ended(self, end: ChatEnd) -> None:
        """Takes note of how a reply ended."""
        self._ended += 1
        self._ended_s = time.monotonic()
        self._last = end

    def answer(self, running: int) -> dict[str, float | int | bool]:
        """The figures under KoboldCpp's names, while so many replies are being written."""
        end, now = self._last, time.monotonic()
        prompt_s, generate_s = end.durations.prompt_s or 0.0, end.durations.generate_s or 0.0
        prompt_tokens, tokens = end.usage.prompt_tokens, end.usage.completion_tokens
        read = prompt_tokens - end.usage.cached_prompt_tokens
        return {
            "last_process": prompt_s,
            "last_eval": generate_s,
            "last_token_count": tokens,
            "last_input_count": prompt_tokens,
            "last_process_time": prompt_s,
            "last_eval_time": generate_s,
            "last_process_speed": round(read / prompt_s, 2) if prompt_s else 0.0,
            "last_eval_speed": round(tokens / generate_s, 2) if generate_s else 0.0,
            "last_seed": -1,
            "last_draft_success": 0,
            "last_draft_failed": 0,
            "total_gens": self._ended,
            "total_img_gens": 0,
            "total_tts_gens": 0,
            "total_transcribe_gens": self.transcribed,
            "stop_reason": 2 if end.stop_sequence else STOP_REASONS.get(end.reason, -1),
            "queue": max(0, running - 1),
            "idle": 0 if running else 1,
            "hordeexitcounter": 0,
            "uptime": round(now - self._started_s, 3),
            "idletime": 0.0 if running else round(now - self._ended_s, 3),
            "quiet": True,
        }


def routes(context: EdgeContext, figures: Figures) -> list[Route]:
    """The route of this module."""

    async def perf(call: Call) -> web.StreamResponse:
        return call.answer(figures.answer(context.running.count))

    return [
        Route(
            "GET",
            "/api/extra/perf",
            perf,
            "kobold_perf",
            "Say how the last reply went, and what runs now",
            "KoboldAI",
            security="none",
            answers={200: Answer("Figures of this process.", Performance)},
        )
    ]
