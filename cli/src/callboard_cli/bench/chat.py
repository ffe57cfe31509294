"""Streamed chat replies: when their first token comes, and how many there are."""

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from callboard_cli.bench.samples import FailedRequest, Failure, Sample
from callboard_cli.bench.target import MAX_STREAM_BYTES, Target, stream_failure
from callboard_cli.volunteer.streams import events

Message = Mapping[str, str]
_TEXTS = ("content", "reasoning_content", "reasoning")
"""Where servers put the tokens of an answer and of thoughts."""


async def ask(
    target: Target, sample: Sample, messages: Sequence[Message], max_tokens: int, temperature: float | None = None
) -> str:
    """Has a reply streamed into a sample and returns its text; raises FailedRequest and what the session raises."""
    body: dict[str, Any] = {
        "model": target.model,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if temperature is not None:
        body["temperature"] = temperature
    said, characters, finished = list[str](), 0, False
    async with target.asking("POST", f"{target.api}/chat/completions", body) as answer:
        if answer.content_type != "text/event-stream":
            raise FailedRequest(Failure("no_stream", 200))
        async with aclosing(events(answer)) as read:
            async for event in read:
                if event.get("error") is not None:
                    raise stream_failure(event["error"])
                choice = _first(event.get("choices"))
                tokens = [text for name in _TEXTS if isinstance(text := choice.delta.get(name), str) and text]
                if tokens:
                    sample.first_s = sample.first_s or time.monotonic()
                    sample.output_tokens += sample.counted_by == "chunks"
                    characters += sum(map(len, tokens))
                    if isinstance(content := choice.delta.get("content"), str):
                        said.append(content)
                if characters > MAX_STREAM_BYTES:
                    raise FailedRequest(Failure("too_long", 200))
                finished = finished or choice.finished
                _note_usage(sample, event.get("usage"))
        sample.end_s = time.monotonic()
    if not finished:
        raise FailedRequest(Failure("incomplete", 200))
    if sample.first_s is None:
        raise FailedRequest(Failure("empty", 200))
    return "".join(said)


class _Choice:
    def __init__(self, delta: dict[str, Any], *, finished: bool) -> None:
        self.delta = delta
        self.finished = finished


def _first(choices: object) -> _Choice:
    found = cast(list[object], choices)[0] if isinstance(choices, list) and choices else None
    if not isinstance(found, dict):
        return _Choice({}, finished=False)
    choice = cast(dict[str, Any], found)
    delta: object = choice.get("delta")
    return _Choice(
        cast(dict[str, Any], delta) if isinstance(delta, dict) else {}, finished=bool(choice.get("finish_reason"))
    )


def _note_usage(sample: Sample, usage: object) -> None:
    if not isinstance(usage, dict):
        return
    counts = cast(dict[str, Any], usage)
    read, written = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if isinstance(written, int) and written >= 0:
        sample.output_tokens, sample.counted_by = written, "usage"
    if isinstance(read, int) and read >= 0:
        sample.prompt_tokens = read
