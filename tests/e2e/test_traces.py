"""One request is one trace over all processes that take part in it."""

import http.client
import json
import secrets
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.children import wait_until
from tests.support.deployment import CHAT_MODEL, CHAT_POOL, SPEECH_MODEL, VOICES, Deployment, stub_config
from tests.support.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.support.processes import merged
from tests.support.stub_chat import StubChat
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SECRET = "a word that only the prompt holds"
COME_S = 30.0
"""Spans are sent every five seconds."""


class Traced:
    """A deployment whose spans are received here."""

    def __init__(self, deployment: Deployment, receiver: OtlpReceiver, chat: StubChat) -> None:
        self.deployment = deployment
        self.receiver = receiver
        self.chat = chat

    def ask(self, path: str, body: Mapping[str, Any]) -> str:
        """Sends a request as the child of a span of its own, reads the whole answer, and returns the trace's id."""
        trace_id = secrets.token_hex(16)
        connection = http.client.HTTPConnection(self.deployment.root_url().removeprefix("http://"), timeout=20)
        try:
            headers = {"Content-Type": "application/json", "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status in {200, 425}, answer.status
        finally:
            connection.close()
        return trace_id

    def trace(self, trace_id: str, *services: str) -> list[ReceivedSpan]:
        """The spans of a trace, once each of some services has sent its own and all hang together."""

        def complete() -> bool:
            spans = self.receiver.trace(trace_id)
            return {f"callboard-{name}" for name in services} <= {span.service for span in spans} and connected(spans)

        wait_until(complete, COME_S, f"{', '.join(services)} sent their spans of one trace", interval_s=0.1)
        return self.receiver.trace(trace_id)


def connected(spans: list[ReceivedSpan]) -> bool:
    """Whether every span but one has its parent among the others."""
    known = {span.span_id for span in spans}
    return sum(span.parent_id not in known for span in spans) == 1


def ancestors(span: ReceivedSpan, spans: list[ReceivedSpan]) -> list[str]:
    """The names of the spans above one, the nearest first."""
    by_id = {each.span_id: each for each in spans}
    names: list[str] = []
    while (above := by_id.get(span.parent_id)) is not None:
        names.append(above.name)
        span = above
    return names


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Generator[Traced]:
    chat, speech, receiver = StubChat(), StubSpeech(), OtlpReceiver()
    with closing(chat), closing(speech), receiver:
        chat.start()
        speech.start()
        config = merged(stub_config(chat.url, speech.url), {"site": {"traces_endpoint": receiver.url}})
        deployment = Deployment(tmp_path_factory.mktemp("traced"), config, forked=True)
        try:
            deployment.start(rooms=1)
            yield Traced(deployment, receiver, chat)
            deployment.stop()
        finally:
            deployment.abandon()


def chat_body(**more: Any) -> dict[str, Any]:
    return {"model": CHAT_MODEL, "messages": [{"role": "user", "content": SECRET}], **more}


def test_reply_is_one_trace_over_edge_quota_and_worker(traced: Traced) -> None:
    spans = traced.trace(traced.ask("/v1/chat/completions", chat_body(stream=True)), "edge", "quota", "chat")
    by_name = {(span.service, span.name): span for span in spans}
    reply = by_name["callboard-chat", f"chat {CHAT_MODEL}"]
    assert ancestors(reply, spans) == ["enqueue chat job", "POST /v1/chat/completions"]
    decision = by_name["callboard-quota", "quota.reserve"]
    assert ancestors(decision, spans) == ["ask quota.reserve", "POST /v1/chat/completions"]
    settlement = by_name["callboard-quota", "process USAGE"]
    assert ancestors(settlement, spans)[0] == reply.name
    request = by_name["callboard-edge", "POST /v1/chat/completions"]
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["callboard.request_id"] == reply.attributes["callboard.request_id"]
    assert reply.attributes["gen_ai.operation.name"] == "chat"
    assert reply.attributes["gen_ai.request.model"] == CHAT_MODEL
    assert reply.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert reply.attributes["callboard.pool"] == CHAT_POOL
    assert isinstance(reply.attributes["gen_ai.usage.output_tokens"], int)


def test_speech_is_one_trace_over_edge_quota_and_worker(traced: Traced) -> None:
    body = {"model": SPEECH_MODEL, "voice": VOICES[0], "input": SECRET, "response_format": "wav"}
    spans = traced.trace(traced.ask("/v1/audio/speech", body), "edge", "quota", "tts")
    (utterance,) = [span for span in spans if span.service == "callboard-tts"]
    assert utterance.name == f"generate_content {SPEECH_MODEL}"
    assert utterance.attributes["gen_ai.output.type"] == "speech"
    assert ancestors(utterance, spans) == ["enqueue tts job", "POST /v1/audio/speech"]


def test_turn_of_a_room_is_one_trace_from_the_message_to_the_speech(traced: Traced) -> None:
    said = {"join_key": "stage", "username": "Ann", "message": SECRET, "charactername": "Owl"}
    trace_id = traced.ask("/ait/postMessage", {**said, "message_id": uuid4().hex})
    traced.trace(trace_id, "edge", "rooms", "chat", "tts")
    wait_until(lambda: any(span.name == "process TURNS" for span in traced.receiver.trace(trace_id)), COME_S, "the end")
    spans = traced.receiver.trace(trace_id)
    (utterance,) = [span for span in spans if span.service == "callboard-tts"]
    above = ["rooms.post", "ask rooms.post", "POST /ait/postMessage"]
    assert ancestors(utterance, spans) == ["enqueue tts job", *above]
    (reply,) = [span for span in spans if span.service == "callboard-chat"]
    assert ancestors(reply, spans) == ["enqueue chat job", *above]
    (ended,) = [span for span in spans if span.name == "process TURNS"]
    assert ancestors(ended, spans) == [reply.name, "enqueue chat job", *above]


def test_histograms_and_logs_name_the_trace(traced: Traced) -> None:
    trace_id = traced.ask("/v1/chat/completions", chat_body(stream=True))
    edge, worker = traced.deployment.edges[0], traced.deployment.chats[0]
    asked = urllib.request.Request(
        f"http://127.0.0.1:{edge.health_port}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(asked, timeout=5) as reply:
        lines = [line for line in reply.read().decode().splitlines() if f'trace_id="{trace_id}"' in line]
    assert any(line.startswith("callboard_edge_time_to_first_byte_seconds_bucket") for line in lines)
    assert any(line.get("trace_id") == trace_id and line["event"] == "job_ended" for line in worker.logs())


def test_traces_hold_nothing_that_a_client_or_a_model_wrote(traced: Traced) -> None:
    refused = traced.ask("/v1/chat/completions", chat_body(max_tokens=7))
    traced.trace(refused, "edge", "quota", "chat")
    sent = b"".join(traced.receiver.bodies)
    assert SECRET.encode() not in sent
    assert all(isinstance(value, str | int | float | bool | list) for span in traced.receiver.spans for value in
               span.attributes.values())  # fmt: skip


def test_collector_that_is_away_holds_nothing_up(tmp_path: Path) -> None:
    chat, speech = StubChat(), StubSpeech()
    with closing(chat), closing(speech):
        chat.start()
        speech.start()
        nobody = {"site": {"traces_endpoint": "http://127.0.0.1:9"}}
        with Deployment(
            tmp_path, merged(stub_config(chat.url, speech.url), nobody), forked=True
        ).running() as deployment:
            request = urllib.request.Request(
                f"{deployment.base_url}/chat/completions",
                json.dumps(chat_body()).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=20) as reply:
                assert reply.status == 200
