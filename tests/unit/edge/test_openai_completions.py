"""OpenAI's older path for plain continuations."""

import asyncio
import json
from typing import Any

import pytest

from callboard_contracts.chat import ChatEnd, ChatFrame
from callboard_contracts.errors import ErrorCode, ErrorInfo
from tests.unit.edge.harness import EdgeHarness, frames, read_events, running, said

pytestmark = pytest.mark.unit

PATH = "/v1/completions"


def asking(**over: Any) -> dict[str, Any]:
    return {"model": "owl", "prompt": "Once", **over}


async def test_continuation_is_whole(harness: EdgeHarness) -> None:
    worker = harness.plays(frames(" upon", " a"))
    status, _, body = await harness.post(PATH, asking())
    answer = json.loads(body)
    request = (await worker).request
    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"index": 0, "text": " upon a", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"]["total_tokens"] == 9
    assert (request.mode, request.prompt, request.max_output_tokens) == ("completion", "Once", 16)


async def test_continuation_streams(harness: EdgeHarness) -> None:
    harness.plays(frames(" upon", end="length"))
    _, headers, body = await harness.post(PATH, asking(stream=True, stream_options={"include_usage": True}))
    assert headers["Content-Type"] == "text/event-stream"
    *events, last = read_events(body)
    assert [event["choices"][0] for event in events] == [
        {"index": 0, "text": " upon", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"},
    ]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2


async def test_echo_begins_with_the_prompt(harness: EdgeHarness) -> None:
    harness.plays(frames(" upon"))
    _, _, body = await harness.post(PATH, asking(echo=True))
    assert json.loads(body)["choices"][0]["text"] == "Once upon"
    harness.plays(frames(" upon"))
    _, _, body = await harness.post(PATH, asking(echo=True, stream=True))
    assert said(read_events(body)) == "Once upon"


async def test_prompt_may_be_a_list_of_one(harness: EdgeHarness) -> None:
    worker = harness.plays(frames("x"))
    await harness.post(PATH, asking(prompt=["Once"], max_tokens=5, best_of=1, suffix="", top_k=-1))
    request = (await worker).request
    assert (request.prompt, request.max_output_tokens, request.sampling.top_k) == ("Once", 5, -1)


async def play_prompts(harness: EdgeHarness, count: int) -> list[str]:
    """Answers so many jobs with their own prompts, in two words each, and returns the prompts."""
    jobs = [await harness.jobs.next_chat() for _ in range(count)]
    for job in jobs:
        for frame in frames(f"<{job.request.prompt}", ">"):
            harness.replies.send(job.request_id, frame)
        harness.jobs.finish(job.request_id)
    return [job.request.prompt for job in jobs]


@pytest.mark.parametrize("prompts", [["The sea is", "The sky is"], ["a", "a", "b"], [f"{n}" for n in range(32)]])
async def test_each_prompt_of_a_list_is_answered_indexed_and_counted(harness: EdgeHarness, prompts: list[str]) -> None:
    for echo in (False, True):
        worker = asyncio.ensure_future(play_prompts(harness, len(prompts)))
        status, _, body = await harness.post(PATH, asking(prompt=prompts, max_tokens=5, echo=echo))
        assert await worker == prompts
        answer = json.loads(body)
        assert status == 200
        assert [choice["index"] for choice in answer["choices"]] == list(range(len(prompts)))
        texts = [f"{prompt if echo else ''}<{prompt}>" for prompt in prompts]
        assert [choice["text"] for choice in answer["choices"]] == texts
        assert answer["usage"]["prompt_tokens"] == 7 * len(prompts)
        assert answer["usage"]["completion_tokens"] == 2 * len(prompts)
    assert len(harness.quota.asked) == 2 * len(prompts)
    assert len({asked.request_id for asked in harness.quota.asked}) == 2 * len(prompts)
    await harness.all_closed()


async def test_each_prompt_of_a_list_is_streamed_under_its_index(harness: EdgeHarness) -> None:
    prompts = ["The sea is", "The sky is", "The owl is"]
    worker = asyncio.ensure_future(play_prompts(harness, 3))
    body = asking(prompt=prompts, stream=True, echo=True, stream_options={"include_usage": True})
    _, headers, answer = await harness.post(PATH, body)
    await worker
    assert headers["Content-Type"] == "text/event-stream"
    *events, last = read_events(answer)
    choices = [event["choices"][0] for event in events]
    for index, prompt in enumerate(prompts):
        own = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == f"{prompt}<{prompt}>"
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"]
        assert own[-1]["finish_reason"] == "stop"
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (21, 6)
    assert len({(event["id"], event["created"]) for event in (*events, last)}) == 1
    await harness.all_closed()


@pytest.mark.parametrize("stream", [False, True])
async def test_list_is_answered_whole_or_not_at_all(stream: bool) -> None:
    async with running(most_queued=2) as harness:
        status, _, body = await harness.post(PATH, asking(prompt=["a", "b", "c"], stream=stream))
        assert (status, json.loads(body)["error"]["code"]) == (429, "queue_full")
        await harness.all_closed()
        assert sorted(harness.quota.released) == sorted(asked.request_id for asked in harness.quota.asked)
        assert harness.jobs.queued == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_failure_of_one_prompt_ends_the_others(harness: EdgeHarness, stream: bool) -> None:
    async def work() -> None:
        first = await harness.jobs.next_chat()
        await harness.jobs.next_chat()
        error = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="It failed.")
        if stream:
            harness.replies.send(first.request_id, frames("x", end=None)[0])
            await asyncio.sleep(0.1)
        end = ChatEnd(reason="error", error=error)
        harness.replies.send(first.request_id, ChatFrame(seq=int(stream), attempt=1, end=end))

    worker = asyncio.ensure_future(work())
    status, _, body = await harness.post(PATH, asking(prompt=["a", "b"], stream=stream))
    await worker
    if stream:
        *_, last = read_events(body)
        assert (status, last["error"]["code"]) == (200, "engine_failed")
    else:
        assert (status, json.loads(body)["error"]["code"]) == (502, "engine_failed")
    await harness.all_closed()
    assert len(harness.jobs.cancelled) == 1


async def test_client_that_leaves_cancels_every_prompt(harness: EdgeHarness) -> None:
    async with harness.session.post(harness.url + PATH, json=asking(prompt=["a", "b"], stream=True)) as reply:
        jobs = [await harness.jobs.next_chat() for _ in range(2)]
        for job in jobs:
            harness.replies.send(job.request_id, frames("x", end=None)[0])
        assert await reply.content.readany()
    await harness.all_closed()
    assert sorted(harness.jobs.cancelled) == sorted(job.request_id for job in jobs)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "more prompts than are taken": ({"prompt": ["a"] * 33}, "prompt", "invalid_request"),
    "an empty one among several": ({"prompt": ["a", ""]}, "prompt", "invalid_request"),
    "token ids among texts": ({"prompt": ["a", 1]}, "prompt", "invalid_request"),
    "null among texts": ({"prompt": ["a", None]}, "prompt", "invalid_request"),
    "a prompt that is certain not to fit": (
        {"model": "wren/tiny", "prompt": "a " * 20_000},
        "prompt",
        "context_length_exceeded",
    ),
    "a token below 0": ({"prompt": [1, -2]}, "prompt", "invalid_request"),
    "a token that is no number": ({"prompt": [[1, True]]}, "prompt", "invalid_request"),
    "no tokens": ({"prompt": [[]]}, "prompt", "invalid_request"),
    "lists of tokens among texts": ({"prompt": ["a", [1]]}, "prompt", "invalid_request"),
    "an empty list": ({"prompt": []}, "prompt", "invalid_request"),
    "an empty prompt": ({"prompt": ""}, "prompt", "invalid_request"),
    "a number": ({"prompt": 7}, "prompt", "invalid_request"),
    "nothing": ({"prompt": None}, "prompt", "invalid_request"),
    "a suffix": ({"suffix": "end"}, "suffix", "unsupported"),
    "the best of too many": ({"best_of": 9}, "best_of", "unsupported"),
    "too many choices": ({"n": 9}, "n", "unsupported"),
    "too many choices of all prompts": ({"n": 8, "prompt": ["a"] * 5}, "prompt", "invalid_request"),
    "more than the best of": ({"n": 3, "best_of": 2}, "best_of", "invalid_request"),
    "a stream of the best": ({"best_of": 2, "stream": True}, "best_of", "unsupported"),
    "log probabilities of the prompt": ({"logprobs": 0, "echo": True}, "echo", "unsupported"),
    "too many stops": ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_request"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_request_that_cannot_be_served_names_its_field(case: str, harness: EdgeHarness) -> None:
    over, param, code = REFUSED[case]
    status, _, body = await harness.post(PATH, asking(**over))
    error = json.loads(body)["error"]
    assert (status, error["param"], error["code"]) == (400, param, code)
    assert harness.quota.asked == []
