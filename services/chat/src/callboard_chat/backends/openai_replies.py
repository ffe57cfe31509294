"""OpenAI's streamed replies from the client's side: events in, chunks out.

Of each event only what is used here is read, and events that come together are read at once: the `openai` package's
typed objects cost ten times as much as plain JSON, and this costs less than half of that.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
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


class _Delta(msgspec.Struct, gc=False):
    """What a piece of a chat says; servers have two names for thinking, and some call the content text.

    Here and below, what says nothing may have any form: servers write null, an empty text or false.
    """

    content: Any = None
    text: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None


class _Choice(_Delta, gc=False):
    """One choice of an event; a completion's has no delta and says its text itself."""

    delta: _Delta | None = None
    finish_reason: Any = None
    stop_reason: Any = None
    logprobs: Any = None


class _Event(msgspec.Struct, gc=False):
    """One event of a streamed reply, with what llama.cpp adds of its work."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    prompt_progress: Any = None
    timings: Any = None


_DONE = _Event()
"""Stands for the line that ends a stream."""
_UNREADABLE = _Event(error=True)
"""Stands for what is no event."""
_read_together = msgspec.json.Decoder(list[_Event]).decode
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

    def _read_events(self, events: Iterable[_Event]) -> tuple[str, str]:
        """Takes in events up to the end, or to one that has another form; returns their text and their thinking."""
        text = thinking = ""
        tokens = self._tokens
        try:
            for event in events:
                if self.done or event is _DONE:
                    self.done = True
                    break
                if event.usage:
                    self._read_usage(event.usage)
                timings = self._read_rare(event) if event.timings or event.prompt_progress or event.error else None
                for choice in event.choices or ():
                    delta = choice.delta or choice
                    said = delta.content or delta.text or ""
                    thought = delta.reasoning_content or delta.reasoning or ""
                    if said or thought or delta.tool_calls:
                        if tokens >= self._limit:
                            self._finish = "length"
                            self.done = True
                            break
                        before = tokens
                        tokens = max(before, timings["predicted_n"]) if timings else before + 1
                        text += said
                        if thought:
                            thinking += thought
                            self._thinking_tokens += 0 if said else tokens - before
                        if delta.tool_calls:
                            self._add_calls(delta.tool_calls)
                    if self._top_logprobs is not None and choice.logprobs:
                        self._logprobs += _logprobs(choice.logprobs, self._top_logprobs)
                    if choice.finish_reason:
                        self._read_finish(choice.finish_reason, choice)
        except (ValueError, TypeError, AttributeError, KeyError):
            self._failed = self.done = True
        self._tokens = tokens
        return text, thinking

    def _read_usage(self, usage: Json) -> None:
        self._usage = usage
        self._count_prompt(usage.get("prompt_tokens"), (usage.get("prompt_tokens_details") or {}).get("cached_tokens"))

    def _read_finish(self, reason: str, choice: _Choice) -> None:
        # One server writes the word null while it is still running.
        if reason != "null":
            self._finish = _FINISHES.get(reason, "stop")
            # vLLM names the sequence, or the number of a token, that ended the reply.
            self._stop_sequence = choice.stop_reason if isinstance(choice.stop_reason, str) else None

    def _read_rare(self, event: _Event) -> Json | None:
        """Takes in what few events have beside their text; returns llama.cpp's timings, which have its counts."""
        if event.error:
            raise ValueError
        if event.prompt_progress:
            self._read_prompt_tokens = max(0, event.prompt_progress["processed"] - self._spent_prompt_tokens)
        timings = event.timings
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


def _events(payloads: list[bytes]) -> Iterable[_Event]:
    """The events in payloads that arrived together; one that is none comes as `_UNREADABLE`."""
    if payloads and payloads[-1] == b"[DONE]":
        return [*_events(payloads[:-1]), _DONE]
    try:
        # A burst of small events is read several times as fast at once.
        return _read_together(b"[" + b",".join(payloads) + b"]")
    except (ValueError, msgspec.DecodeError, RecursionError):
        return [_event(payload) for payload in payloads]


def _event(payload: bytes) -> _Event:
    if payload == b"[DONE]":
        return _DONE
    try:
        # Some engines write log probabilities that are no numbers, which this reader takes.
        return msgspec.convert(from_json(payload), _Event)
    except (ValueError, msgspec.ValidationError):
        return _UNREADABLE


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
