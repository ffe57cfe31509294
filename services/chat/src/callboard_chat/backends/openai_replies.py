"""OpenAI's streamed replies from the client's side: events in, chunks out.

They are read from plain JSON instead of the `openai` package's typed objects, which cost ten times as much.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from callboard_chat.backends.openai_wire import Json
from callboard_chat.domain.ports import Chunk, Finish
from callboard_chat.domain.tool_calls import new_call
from callboard_contracts.chat import PhaseDurations, TokenLogprob
from callboard_worker.engine import EngineFailed, EngineUnavailable

MAX_EVENT_BYTES = 4 * 1024 * 1024
LEAST_LOGPROB = -9999.0

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


_RARE_IN_EVENT = frozenset({"error", "prompt_progress", "timings"})
_RARE_IN_DELTA = frozenset({"reasoning_content", "reasoning", "tool_calls"})

_DONE = object()
"""Stands for the line that ends a stream."""
_PAYLOAD = re.compile(rb"^data:[^\S\n]*+(.*\S)", re.MULTILINE)
"""The line of an event, and what of it is neither a blank before nor one behind."""


class EventReader:
    """Cuts a byte stream of server-sent events into the payloads of its `data:` lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes and returns the payloads that are complete."""
        lines, _, self._rest = (self._rest + data).rpartition(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EngineFailed
        return _PAYLOAD.findall(lines)


class ReplyReader:
    """Puts streamed chunks together: text as it comes, tool calls and counts at the end.

    It never hands over more tokens than `limit`, taking one chunk of text for one token unless the engine counts, as
    llama.cpp does. `spent_prompt_tokens` is how much of the prompt is the start of the answer; `prompt_tokens` is the
    prompt's length where it is known better. At most `top_logprobs` alternatives come with a token.
    """

    def __init__(
        self,
        limit: int,
        *,
        spent_prompt_tokens: int = 0,
        prompt_tokens: int | None = None,
        top_logprobs: int | None = None,
    ) -> None:
        self._limit = limit
        self._spent_prompt_tokens = spent_prompt_tokens
        self._prompt_tokens = prompt_tokens
        self._prompt_fixed = prompt_tokens is not None
        self._cached_prompt_tokens: int | None = None
        self._read_prompt_tokens = 0
        self._tokens = self._thinking_tokens = 0
        self._top_logprobs = top_logprobs
        self._logprobs: list[TokenLogprob] = []
        self._calls: dict[int, list[str]] = {}
        self._finish: Finish | None = None
        self._stop_sequence: str | None = None
        self._usage: Json = {}
        self._timings: Json = {}
        self._failed = False
        self.done = False
        """Whether nothing more is to be read."""

    @property
    def finished(self) -> bool:
        """Whether the engine has said why it ended, though its counts may still follow."""
        return self._finish is not None

    def chunks(self, payloads: list[bytes]) -> Iterator[Chunk]:
        """Takes the payloads that arrived together and tells what they say, up to the end.

        The reply's first word is a chunk of its own and does not wait until what came with it is read.
        """
        read = 0
        while read < len(payloads) and not self.done:
            together = 1 if self._tokens == 0 else len(payloads)
            chunk = self.read(payloads[read : read + together])
            read += together
            if chunk is not None:
                yield chunk

    def read(self, payloads: list[bytes]) -> Chunk | None:
        """Takes the payloads that arrived together and returns what they say as one chunk."""
        before, read_before, thinking_before = self._tokens, self._read_prompt_tokens, self._thinking_tokens
        text, thinking = self._read_events(_events(payloads))
        tokens = self._tokens - before
        if not (text or thinking or tokens):
            read = self._read_prompt_tokens
            return Chunk(read_prompt_tokens=read) if read > read_before else None
        logprobs, self._logprobs = tuple(self._logprobs), []
        return Chunk(
            text,
            thinking,
            tokens,
            self._thinking_tokens - thinking_before,
            logprobs=logprobs,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_prompt_tokens,
        )

    def _read_events(self, events: Iterable[Any]) -> tuple[str, str]:
        """Takes in events up to the end, or to one that has another form; returns their text and their thinking."""
        text = thinking = ""
        tokens = self._tokens
        try:
            for event in events:
                if self.done or event is _DONE:
                    self.done = True
                    break
                if usage := event.get("usage"):
                    self._read_usage(usage)
                timings = None if _RARE_IN_EVENT.isdisjoint(event) else self._read_rare(event)
                for choice in event.get("choices") or ():
                    delta = choice.get("delta") or choice
                    said = delta.get("content") or delta.get("text") or ""
                    thought, calls = "", ()
                    if not _RARE_IN_DELTA.isdisjoint(delta):
                        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
                        calls = delta.get("tool_calls") or ()
                    if said or thought or calls:
                        if tokens >= self._limit:
                            self._finish = "length"
                            self.done = True
                            break
                        before = tokens
                        tokens = max(before, timings["predicted_n"]) if timings else before + 1
                        text += said
                        if thought or calls:
                            thinking += thought
                            self._thinking_tokens += 0 if said or not thought else tokens - before
                            self._add_calls(calls)
                    if self._top_logprobs is not None and (logprobs := choice.get("logprobs")):
                        self._logprobs += _logprobs(logprobs, self._top_logprobs)
                    if reason := choice.get("finish_reason"):
                        self._read_finish(reason, choice)
        except (ValueError, TypeError, AttributeError, KeyError):
            self._failed = self.done = True
        self._tokens = tokens
        return text, thinking

    def _read_usage(self, usage: Json) -> None:
        self._usage = usage
        self._count_prompt(usage.get("prompt_tokens"), (usage.get("prompt_tokens_details") or {}).get("cached_tokens"))

    def _read_finish(self, reason: str, choice: Json) -> None:
        # One server writes the word null while it is still running.
        if reason != "null":
            self._finish = _FINISHES.get(reason, "stop")
            # vLLM names the sequence, or the number of a token, that ended the reply.
            stop = choice.get("stop_reason")
            self._stop_sequence = stop if isinstance(stop, str) else None

    def _read_rare(self, event: Json) -> Json | None:
        """Takes in what few events have beside their text; returns llama.cpp's timings, which have its counts."""
        if event.get("error"):
            raise ValueError
        if progress := event.get("prompt_progress"):
            self._read_prompt_tokens = max(0, progress["processed"] - self._spent_prompt_tokens)
        timings = event.get("timings")
        if timings:
            self._timings = timings
            self._count_prompt(timings["cache_n"] + timings["prompt_n"], timings["cache_n"])
        return timings

    def last(self) -> Chunk:
        """The final chunk, with the engine's own counts, once nothing more comes.

        Raises:
            EngineFailed: the engine reported an error, or does not speak the protocol.
            EngineUnavailable: it broke off before its end.
        """
        if self._failed:
            raise EngineFailed
        if self._finish is None:
            raise EngineUnavailable("the reply broke off")
        told = (self._usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
        return Chunk(
            thinking_tokens=max(0, (told or 0) - self._thinking_tokens),
            tool_calls=tuple(
                new_call(name, arguments, call_id) for _, (call_id, name, arguments) in sorted(self._calls.items())
            ),
            logprobs=tuple(self._logprobs),
            finish="tool_calls" if self._calls and self._finish != "length" else self._finish,
            stop_sequence=self._stop_sequence,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_prompt_tokens,
            completion_tokens=self._usage.get("completion_tokens"),
            durations=PhaseDurations(
                prompt_s=self._timings["prompt_ms"] / 1000, generate_s=self._timings["predicted_ms"] / 1000
            )
            if self._timings
            else None,
        )

    def _count_prompt(self, tokens: int | None, cached: int | None) -> None:
        if tokens and not self._prompt_fixed:
            self._prompt_tokens = max(0, tokens - self._spent_prompt_tokens)
        if cached is not None:
            self._cached_prompt_tokens = cached

    def _add_calls(self, parts: Iterable[Json]) -> None:
        for part in parts:
            call = self._calls.setdefault(part.get("index", 0), ["", "", ""])
            function = part.get("function") or {}
            call[0] = part.get("id") or call[0]
            call[1] += function.get("name") or ""
            call[2] += function.get("arguments") or ""


def _events(payloads: list[bytes]) -> Iterable[Any]:
    """The events in payloads that arrived together; one that is no JSON comes as None."""
    if payloads and payloads[-1] == b"[DONE]":
        return [*_events(payloads[:-1]), _DONE]
    try:
        # A burst of small events is read several times as fast at once.
        return from_json(b"[" + b",".join(payloads) + b"]")
    except ValueError:
        return [_event(payload) for payload in payloads]


def _event(payload: bytes) -> Any:
    if payload == b"[DONE]":
        return _DONE
    try:
        return from_json(payload)
    except ValueError:
        return None


def _logprobs(found: Json, top: int) -> list[TokenLogprob]:
    """The log probabilities of one choice, in the form of chats or in that of completions."""
    if (content := found.get("content")) is not None:
        return [
            _told(each, tuple(_told(other) for other in (each.get("top_logprobs") or ())[:top])) for each in content
        ]
    tokens = found.get("tokens") or ()
    tops = found.get("top_logprobs") or [None] * len(tokens)
    return [
        TokenLogprob(
            token=token,
            logprob=_logprob(logprob),
            top=tuple(
                TokenLogprob(token=other, logprob=_logprob(value))
                for other, value in list((others or {}).items())[:top]
            ),
        )
        for token, logprob, others in zip(tokens, found["token_logprobs"], tops, strict=True)
    ]


def _told(each: Json, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    token, data = each["token"], each.get("bytes")
    return TokenLogprob(
        token=token,
        token_id=each.get("id"),
        logprob=_logprob(each["logprob"]),
        bytes=tuple(data) if data and bytes(data) != token.encode() else None,
        top=top,
    )


def _logprob(value: float | None) -> float:
    """A log probability as a finite number; OpenAI too writes -9999 for a token that cannot come."""
    return LEAST_LOGPROB if value is None else max(value, LEAST_LOGPROB)
