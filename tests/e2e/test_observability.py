"""What an operator sees of a request: figures, health and logs of every process that took part."""

import asyncio
from typing import Any

import openai
import pytest

from tests.support.clients import HELLO
from tests.support.deployment import Deployment
from tests.support.processes import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

FIGURES: dict[str, tuple[str, ...]] = {
    "edge": ("callboard_edge_requests_total", "callboard_edge_time_to_first_byte_seconds_count"),
    "chat": (
        "callboard_chat_jobs_total",
        "callboard_chat_queue_wait_seconds_count",
        "gen_ai_server_time_to_first_token_seconds_count",
        "gen_ai_client_token_usage_sum",
    ),
    "tts": (
        "callboard_tts_jobs_total",
        "callboard_tts_time_to_first_audio_seconds_count",
        "callboard_tts_audio_seconds_total",
    ),
    "quota": ("callboard_quota_decisions_total", "callboard_quota_settlements_total"),
}


def total(service: Service, name: str) -> float:
    """One figure over all its labels."""
    return sum(value for labelled, value in service.metrics().items() if labelled.partition("{")[0] == name)


async def test_figures_move_with_the_work(deployment: Deployment, client: openai.AsyncOpenAI) -> None:
    watched = [(service, name) for service in deployment.services for name in FIGURES[service.name.partition("-")[0]]]
    before = [await asyncio.to_thread(total, service, name) for service, name in watched]
    await client.chat.completions.create(model="owl", messages=HELLO)
    await client.audio.speech.create(model="parrot", voice="tenor", input="Hello there, old owl.")
    await asyncio.to_thread(deployment.wait_idle)
    after = [await asyncio.to_thread(total, service, name) for service, name in watched]
    still = [name for (_, name), first, last in zip(watched, before, after, strict=True) if last <= first]
    assert still == []


async def test_logs_are_json_and_follow_a_request_by_its_id(deployment: Deployment, client: openai.AsyncOpenAI) -> None:
    """The id in an answer's headers leads to the worker's lines; a client's own name for it to the edge's."""
    chat = await client.chat.completions.with_raw_response.create(model="owl", messages=HELLO)
    speech = await client.audio.speech.with_raw_response.create(
        model="parrot", voice="tenor", input="Hello there, old owl.", extra_headers={"X-Request-Id": "scene-4"}
    )
    assert speech.headers["x-request-id"] == "scene-4"
    await asyncio.to_thread(deployment.wait_idle)
    lines: dict[str, list[dict[str, Any]]] = {service.name: service.logs() for service in deployment.services}
    odd = [line for found in lines.values() for line in found if line["event"] == "not_json"]
    assert odd == []
    named = next(line for line in lines["edge-0"] if line.get("client_request_id") == "scene-4")
    for worker, request_id in (
        ("chat-0", chat.headers["x-request-id"].removeprefix("req_")),
        ("tts-0", named["request_id"]),
    ):
        assert any(line.get("request_id") == request_id for line in lines[worker]), worker


async def test_health_says_what_each_process_is(deployment: Deployment) -> None:
    for service in deployment.services:
        assert await asyncio.to_thread(service.ready_reason) is None
        lag = await asyncio.to_thread(total, service, "callboard_event_loop_lag_seconds_count")
        assert lag >= 0
        info = [name for name in await asyncio.to_thread(service.metrics) if name.startswith("process_resident_memory")]
        assert info


async def test_no_process_reports_an_error_for_ordinary_work(
    deployment: Deployment, client: openai.AsyncOpenAI
) -> None:
    since = {service.name: len(service.logs()) for service in deployment.services}
    for _ in range(3):
        await client.chat.completions.create(model="owl", messages=HELLO)
    await asyncio.to_thread(deployment.wait_idle)
    bad = [
        line
        for service in deployment.services
        for line in service.logs()[since[service.name] :]
        if line.get("level") in {"warning", "error", "critical"}
    ]
    assert bad == []
