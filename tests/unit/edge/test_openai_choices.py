"""Several choices for one request, the log probabilities of their tokens, and prompts of tokens."""

import asyncio
import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatJob, TokenLogprob
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.workers import Ability, OfferedModel, WorkerInfo
from tests.unit.edge.harness import USAGE, EdgeHarness, asking, frames, read_events, said

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
PATH = "/v1/completions"
TOKENS = (
    TokenLogprob(token="Hö", token_id=5, logprob=-0.5, top=(TokenLogprob(token="Hö", logprob=-0.5),)),
    TokenLogprob(token="o", token_id=6, logprob=-1.5, top=(TokenLogprob(token="a\ufffd", logprob=-1.25),)),
)
TEXT = [
    ChatFrame(seq=0, attempt=1, text="Hö", tokens=1, logprobs=TOKENS[:1]),
    ChatFrame(seq=1, attempt=1, text="o", tokens=1, logprobs=TOKENS[1:]),
    ChatFrame(seq=2, attempt=1, end=ChatEnd(reason="stop", usage=USAGE)),
]
THOUGHT = ChatFrame(seq=0, attempt=1, thinking="Hm", tokens=1, logprobs=(TokenLogprob(token="Hm", logprob=-2),))
SCORED = [THOUGHT, *(frame.model_copy(update={"seq": frame.seq + 1}) for frame in TEXT)]


def offers(harness: EdgeHarness, *abilities: Ability) -> None:
    offered = OfferedModel(name="owl", abilities=abilities)
    harness.known.announce(
        WorkerInfo(id="w", service="chat", pool="main", backend="fake", models=(offered,), slots=1, at=1.0)
    )


async def test_log_probabilities_of_a_chat_are_those_of_the_package(harness: EdgeHarness) -> None:
    offers(harness, "logprobs")
    worker = harness.plays(SCORED)
    _, _, answer = await harness.post(CHAT, asking(logprobs=True, top_logprobs=1))
    assert (await worker).request.top_logprobs == 1
    logprobs = ChatCompletion.model_validate_json(answer, strict=True).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(one.token, one.logprob, one.bytes) for one in logprobs.content] == [
        ("Hö", -0.5, [72, 195, 182]),
        ("o", -1.5, [111]),
    ]
    (alternative,) = logprobs.content[1].top_logprobs
    assert (alternative.logprob, alternative.bytes) == (-1.25, None)
    harness.plays(SCORED)
    _, _, body = await harness.post(CHAT, asking(logprobs=True, stream=True))
    events = read_events(body)
    assert said(events) == "Höo"
    found = [ChatCompletionChunk.model_validate(event).choices[0].logprobs for event in events]
    assert [one.token for each in found if each and each.content for one in each.content] == ["Hö", "o"]


async def test_log_probabilities_of_a_continuation_are_those_of_the_package(harness: EdgeHarness) -> None:
    offers(harness, "logprobs")
    worker = harness.plays(TEXT)
    _, _, answer = await harness.post(PATH, {"model": "owl", "prompt": "Once", "logprobs": 1})
    assert (await worker).request.top_logprobs == 1
    logprobs = Completion.model_validate_json(answer, strict=True).choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset) == (["Hö", "o"], [-0.5, -1.5], [0, 2])
    assert logprobs.top_logprobs == [{"Hö": -0.5}, {"a\ufffd": -1.25}]
    harness.plays(TEXT, pause_s=0.02)
    _, _, body = await harness.post(PATH, {"model": "owl", "prompt": "Once", "logprobs": 0, "stream": True})
    found = [event["choices"][0]["logprobs"] for event in read_events(body)]
    assert [offset for each in found if each for offset in each["text_offset"]] == [0, 2]


async def test_log_probabilities_that_no_engine_tells_are_refused(harness: EdgeHarness) -> None:
    offers(harness)
    refused = [
        (CHAT, asking(logprobs=True), "logprobs"),
        (PATH, {"model": "owl", "prompt": "Once", "logprobs": 0}, "logprobs"),
        (PATH, {"model": "owl", "prompt": "Once", "best_of": 2}, "best_of"),
    ]
    for path, body, param in refused:
        status, _, answer = await harness.post(path, body)
        error = json.loads(answer)["error"]
        assert (status, error["code"], error["param"]) == (400, "unsupported", param)
    assert harness.quota.asked == []


async def play(harness: EdgeHarness, count: int) -> list[ChatJob]:
    """Answers so many jobs with their numbers."""
    jobs = [await harness.jobs.next_chat() for _ in range(count)]
    for number, job in enumerate(jobs):
        for frame in frames(f"{number}", "."):
            harness.replies.send(job.request_id, frame)
        harness.jobs.finish(job.request_id)
    return jobs


@pytest.mark.parametrize("path", [CHAT, PATH])
async def test_each_choice_is_a_job_of_its_own(path: str, harness: EdgeHarness) -> None:
    plain: dict[str, Any] = asking() if path == CHAT else {"model": "owl", "prompt": "Once"}
    for stream in (False, True):
        worker = asyncio.ensure_future(play(harness, 3))
        body = {**plain, "n": 3, "seed": 5, "stream": stream, "stream_options": {"include_usage": True}}
        status, _, answer = await harness.post(path, body)
        assert status == 200, answer
        assert [job.request.sampling.seed for job in await worker] == [5, 6, 7]
        events = read_events(answer) if stream else [json.loads(answer)]
        choices = [choice for event in events for choice in event["choices"]]
        for index in range(3):
            own = [choice for choice in choices if choice["index"] == index]
            texts = [one.get("text") or (one.get("message") or one.get("delta") or {}).get("content") for one in own]
            assert "".join(text or "" for text in texts) == f"{index}."
            assert [one["finish_reason"] for one in own if one["finish_reason"]] == ["stop"]
            if stream and path == CHAT:
                assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert events[-1]["usage"]["completion_tokens"] == 6
        assert len({event["id"] for event in events}) == 1
    assert len({asked.request_id for asked in harness.quota.asked}) == 6
    await harness.all_closed()


async def test_best_choices_are_those_that_the_engine_held_for_likely(harness: EdgeHarness) -> None:
    offers(harness, "logprobs")

    async def work() -> None:
        for text, logprob in (("poor", -9.0), ("best", -0.1), ("good", -0.5)):
            token = TokenLogprob(token=text, logprob=logprob)
            sent = [ChatFrame(seq=0, attempt=1, text=text, tokens=1, logprobs=(token,)), *frames(first=1)]
            job = await harness.worker(sent)
            assert job.request.top_logprobs == 0

    worker = asyncio.ensure_future(work())
    _, _, answer = await harness.post(PATH, {"model": "owl", "prompt": "Once", "n": 2, "best_of": 3})
    await worker
    found = json.loads(answer)
    assert [(one["index"], one["text"], one["logprobs"]) for one in found["choices"]] == [
        (0, "best", None),
        (1, "good", None),
    ]
    assert found["usage"]["completion_tokens"] == 6


async def test_prompt_of_tokens_is_their_text(harness: EdgeHarness) -> None:
    words = (await harness.post("/api/extra/tokenize", {"prompt": "Once upon", "model": "owl"}))[2]
    ids = json.loads(words)["ids"]
    assert ids[0] == 1
    worker = harness.plays(frames("x"))
    assert (await harness.post(PATH, {"model": "owl", "prompt": ids}))[0] == 200
    assert (await worker).request.prompt == "Once upon"
    for prompt in ([ids, ids[1:]], [ids[1:], ids]):
        jobs = asyncio.ensure_future(play(harness, 2))
        status, _, answer = await harness.post(PATH, {"model": "owl", "prompt": prompt, "echo": True})
        assert [job.request.prompt for job in await jobs] == ["Once upon", "Once upon"]
        assert (status, [one["text"] for one in json.loads(answer)["choices"]]) == (200, ["Once upon0.", "Once upon1."])


async def test_prompt_of_tokens_is_refused_where_the_engine_has_no_text_for_them(harness: EdgeHarness) -> None:
    for code, status in ((ErrorCode.UNSUPPORTED, 400), (ErrorCode.NO_WORKER, 503)):
        harness.inquiry.failure = CallboardError(code, "It cannot.")
        found, _, answer = await harness.post(PATH, {"model": "owl", "prompt": [5, 6]})
        error = json.loads(answer)["error"]
        assert (found, error["code"], error["param"]) == (status, code.value, "prompt")
    harness.quota.require_key = True
    harness.inquiry.asked.clear()
    assert (await harness.post(PATH, {"model": "owl", "prompt": [5, 6]}))[0] == 401
    assert harness.inquiry.asked == []
    assert harness.quota.asked == []


async def test_spoken_reply_has_one_choice(harness: EdgeHarness) -> None:
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "ann", "format": "wav"}}
    for fields in ({"n": 2}, {"logprobs": True}):
        status, _, answer = await harness.post(CHAT, asking(**spoken, **fields))
        assert (status, json.loads(answer)["error"]["param"]) == (400, "modalities")
