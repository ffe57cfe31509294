"""OpenAI's older path for plain continuations."""

import json
from typing import Any

import pytest

from tests.unit.edge.harness import EdgeHarness, frames, read_events, said

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


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "several prompts": ({"prompt": ["a", "b"]}, "prompt", "unsupported"),
    "token ids": ({"prompt": [1, 2]}, "prompt", "unsupported"),
    "lists of token ids": ({"prompt": [[1, 2]]}, "prompt", "unsupported"),
    "an empty list": ({"prompt": []}, "prompt", "invalid_request"),
    "an empty prompt": ({"prompt": ""}, "prompt", "invalid_request"),
    "a number": ({"prompt": 7}, "prompt", "invalid_request"),
    "nothing": ({"prompt": None}, "prompt", "invalid_request"),
    "a suffix": ({"suffix": "end"}, "suffix", "unsupported"),
    "best of": ({"best_of": 2}, "best_of", "unsupported"),
    "several choices": ({"n": 2}, "n", "unsupported"),
    "log probabilities": ({"logprobs": 0}, "logprobs", "unsupported"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_request_that_cannot_be_served_names_its_field(case: str, harness: EdgeHarness) -> None:
    over, param, code = REFUSED[case]
    status, _, body = await harness.post(PATH, asking(**over))
    error = json.loads(body)["error"]
    assert (status, error["param"], error["code"]) == (400, param, code)
    assert harness.quota.asked == []
