"""One reply on its way out: numbered frames, limits kept, tokens counted."""

import time
from collections.abc import Callable

from callboard_chat.domain.hold_limits import output_allowed
from callboard_chat.domain.models import estimated_prompt_tokens
from callboard_chat.domain.ports import Chunk, Continuation, Finish
from callboard_chat.domain.prefill import PrefillCheck, cannot_continue
from callboard_chat.domain.prior_attempt import History
from callboard_chat.domain.reply_runs import ReplyRuns
from callboard_chat.domain.stopping import StopCutter
from callboard_chat.domain.thinking import ThinkingSplitter
from callboard_chat.domain.tool_calls import checked_calls
from callboard_contracts.chat import (
    ChatEnd,
    ChatFrame,
    ChatRequest,
    ChatResult,
    EndReason,
    PhaseDurations,
    TokenLogprob,
    TokenUsage,
    ToolCall,
)
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import Hold, Work
from callboard_contracts.volunteers import ServedBy


class Reply:
    """Turns an engine's chunks into frames and knows, at any moment, what was said and what it used.

    It ends by itself, with `finish` set, when the engine is done, a stop sequence appears, or the limit is reached:
    `max_output_tokens`, what the caller limits it to, or what a `hold` that is not extended leaves beside a prompt that
    the engine counts longer than was expected. The caller then closes the engine's stream.

    With `check_prefill` the engine is not trusted to go on from what was said: what it repeats is neither sent nor
    counted. `max_cached_tokens` bounds what is told of the engine's prompt cache. With `trims_start` blanks at the
    beginning of the reply are the prompt's. With `tells_restarts` a frame tells at once that the reply is begun again.
    """

    def __init__(
        self,
        request: ChatRequest,
        attempt: int,
        prior: History | None = None,
        hold: Hold | None = None,
        *,
        check_prefill: bool = False,
        max_cached_tokens: Callable[[], int] | None = None,
        trims_start: bool = False,
        tells_restarts: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        prior = prior or History()
        self._request = request
        self._hold = hold
        self._limit = request.max_output_tokens
        self._attempt = attempt
        self._next_seq = prior.next_seq
        self._started = prior.started
        self._text = [prior.said.text]
        self._thinking = [prior.said.thinking]
        self._tokens = prior.said.tokens
        self._thinking_tokens = prior.said.thinking_tokens
        self._tool_calls: tuple[ToolCall, ...] = prior.tool_calls
        self._logprobs = [prior.logprobs]
        self._sent: list[ChatFrame] = []
        self._held_back: ChatFrame | None = None
        self._prompt_tokens = prior.prompt_tokens
        self._cached_prompt_tokens = 0
        self._max_cached_tokens = max_cached_tokens
        self._read_prompt_tokens = 0
        self._stop_sequence: str | None = None
        self._durations: PhaseDurations | None = None
        self._runs = ReplyRuns(attempt, clock)
        self._tells_restarts = tells_restarts
        self._trims_start = trims_start
        # A raw prompt cannot be taken for a turn that is over.
        self._checks_prefill = check_prefill and request.mode == "chat"
        self.engine_cached_tokens = 0
        """How many tokens of the prompt the engine had in its cache, whoever put them there."""
        self.tells_cached = False
        """Whether the engine says how much of the prompt it had in its cache."""
        self.first_at: float | None = None
        """When the first frame of this attempt went out, by the monotonic clock."""
        self.finish: Finish | None = "tool_calls" if prior.tool_calls else None
        if self._tokens >= self._limit:
            self.finish = self.finish or "length"
        self.begin_run()

    def begin_run(self) -> None:
        """Prepares for an engine that starts, anew or from what was said; text that was held back comes again."""
        said = self.said
        self._at_start = self._trims_start and not said.text
        self._base_tokens = self._tokens
        self._prompt_known = self._prompt_tokens is not None
        self._pending_tokens = self._pending_thinking_tokens = 0
        self._pending_logprobs: tuple[TokenLogprob, ...] = ()
        self._engine_tokens: int | None = None
        self._served_by: ServedBy | None = None
        self._runs.begin()
        stops = self._request.sampling.stop
        self._cutter = StopCutter(stops) if stops else None
        self._prefill = PrefillCheck(said) if self._checks_prefill and (said.text or said.thinking) else None
        self._splitter: ThinkingSplitter | None = None
        if self._request.mode == "chat":
            self._splitter = ThinkingSplitter(
                inside=not said.text and bool(said.thinking),
                has_text=bool(said.text),
                leading_only=self._request.output_format.kind != "text",
            )

    @property
    def said(self) -> Continuation:
        """What the frames so far have said."""
        return Continuation("".join(self._text), "".join(self._thinking), self._tokens, self._thinking_tokens)

    @property
    def has_text(self) -> bool:
        """Whether the frames so far have said some text, beside thinking."""
        return any(self._text)

    @property
    def started(self) -> bool:
        """Whether anything of the reply has gone out, in this attempt or before."""
        return self._started or self._tokens > 0

    @property
    def worked_s(self) -> float | None:
        """How long the reply was written, where it waited for somebody to write it; None where it did not."""
        return self._runs.worked_s

    @property
    def cut_at_stop(self) -> bool:
        """Whether a stop sequence ended the reply."""
        return self._stop_sequence is not None

    @property
    def tokens(self) -> int:
        """How many tokens the frames so far stand for."""
        return self._tokens

    @property
    def used(self) -> Work:
        """What the reply has used so far, as far as it was counted."""
        return Work(prompt_tokens=self._prompt_tokens or 0, completion_tokens=self._tokens)

    def tokens_with(self, chunk: Chunk) -> int:
        """How many tokens there would be with the engine's next chunk, within the limit."""
        made = self._pending_tokens + chunk.tokens
        if self._prefill is not None and self._prefill.repeats:
            return min(self._limit, max(self._tokens, made))
        return min(self._limit, self._tokens + made)

    def limit_to(self, tokens: int) -> None:
        """Ends the reply once it has so many tokens; what was said before cannot be taken back."""
        self._limit = min(self._limit, max(tokens, self._tokens))

    @property
    def prompt_tokens(self) -> int | None:
        """How long the engine counted the prompt; None where it has not."""
        return self._prompt_tokens

    def sent_since(self, seq: int) -> list[ChatFrame]:
        """The frames of this attempt from a number on, for a receiver that missed them."""
        return [frame for frame in self._sent if frame.seq >= seq]

    def take(self, chunk: Chunk) -> ChatFrame | None:
        """Takes the engine's next chunk and returns the frame to send, if there is anything to send yet.

        Raises:
            CallboardError: not even the prompt is held, and nothing was said yet.
            EngineRefused: with `interrupted`, the engine does not go on from what was said.
            EngineFailed: the engine called a tool in a way that was not offered, or none although it had to.
        """
        if self.finish is not None:
            return None
        self._count(chunk)
        room = self._limit - self._tokens
        if self._prefill is not None and not self._prefill.decided:
            # What the engine says may be what was said already.
            room = self._limit
        if self._pending_tokens + chunk.tokens > room:
            # The engine went past the limit that it was told, or past what is held.
            self.finish = "length"
            return self._piece(*self._flush())
        self._pending_tokens += chunk.tokens
        self._pending_logprobs += chunk.logprobs
        text, thinking = self._split(chunk)
        calls: tuple[ToolCall, ...] = ()
        if self._cutter is not None and self._cutter.hit is not None:
            self.finish = "stop"
            self._stop_sequence = self._cutter.hit
            self._pending_logprobs = _of_text(self._pending_logprobs, text)
        elif chunk.finish is not None:
            rest, last_thinking = self._flush()
            restarted = self._prefill is not None and self._prefill.restarted
            if restarted and chunk.finish == "length" and self._total_tokens < self._limit:
                # The engine was told to write only what was left of the limit, and spent that on a repetition.
                raise cannot_continue()
            self.finish = self.finish or chunk.finish
            self._stop_sequence = chunk.stop_sequence
            calls = checked_calls(self._request, chunk.tool_calls, complete=self.finish != "length")
            self._tool_calls = calls
            text += rest
            thinking += last_thinking
        piece = self._piece(text, thinking, calls)
        return self.restarted() if piece is None and self.finish is None else piece

    def hold_back(self) -> None:
        """Keeps the newest frame, which was not sent, for the end to go out with."""
        self._held_back = self._sent.pop()

    def release(self) -> ChatFrame | None:
        """The frame that is held back, if there is one, to be sent before anything else."""
        held, self._held_back = self._held_back, None
        if held is not None:
            self._sent.append(held)
        return held

    def restarted(self) -> ChatFrame | None:
        """A frame that says nothing but that the reply is begun again, where that is to be told."""
        if not (self._tells_restarts and self._runs.is_to_tell):
            return None
        pending = self._pending_thinking_tokens, self._pending_logprobs
        self._pending_thinking_tokens, self._pending_logprobs = 0, ()
        frame = self._frame("", "", 0, (), silent=not self.started)
        self._pending_thinking_tokens, self._pending_logprobs = pending
        return frame

    def end(self, reason: EndReason, error: ErrorInfo | None = None, queue_s: float | None = None) -> ChatFrame:
        """The last frame, with what was held back.

        A reply that was cut before it said anything used what the engine had read of its prompt.
        """
        completed = reason not in {"cancelled", "error"}
        if not completed:
            self._pending_logprobs = ()
        tokens = 0
        if completed or self.started:
            total = min(self._total_tokens, self._limit) if completed else self._tokens
            thinking = self._thinking_tokens + (self._pending_thinking_tokens if completed else 0)
            prompt = self._prompt_tokens
            if prompt is None:
                prompt = estimated_prompt_tokens(self._request)
            usage = TokenUsage(
                prompt_tokens=prompt,
                completion_tokens=total,
                cached_prompt_tokens=self._cached_prompt_tokens,
                thinking_tokens=min(thinking, total),
            )
            tokens = max(0, total - self._tokens)
        else:
            usage = TokenUsage(prompt_tokens=self._read_prompt_tokens)
        durations = PhaseDurations(queue_s=queue_s)
        if self._durations is not None:
            durations = self._durations.model_copy(update={"queue_s": queue_s})
        end = ChatEnd(
            reason=reason,
            usage=usage,
            durations=durations,
            stop_sequence=self._stop_sequence if reason == "stop" else None,
            error=error,
            served_by=self._served_by,
            restarts=self._runs.restarts,
        )
        return self._frame("", "", tokens, (), end)

    def result(self, request_id: str, end: ChatEnd) -> ChatResult:
        """The whole reply, for the result stream."""
        said = self.said
        return ChatResult(
            request_id=request_id,
            model=self._request.model,
            text=said.text,
            thinking=said.thinking,
            tool_calls=self._tool_calls,
            logprobs=tuple(logprob for each in self._logprobs for logprob in each),
            end=end,
        )

    @property
    def _total_tokens(self) -> int:
        """How many tokens the reply has with what was not sent yet, by the engine's count where it gave one."""
        if self._engine_tokens is not None:
            return self._base_tokens + self._engine_tokens
        return self._tokens + self._pending_tokens

    def _count(self, chunk: Chunk) -> None:
        """Takes in what the engine says of itself."""
        if chunk.prompt_tokens is not None and not self._prompt_known:
            self._prompt_tokens = chunk.prompt_tokens
            self.tells_cached = chunk.cached_prompt_tokens is not None
            self._cached_prompt_tokens = min(chunk.cached_prompt_tokens or 0, chunk.prompt_tokens)
            self.engine_cached_tokens = self._cached_prompt_tokens
            if self._cached_prompt_tokens and self._max_cached_tokens is not None:
                self._cached_prompt_tokens = min(self._cached_prompt_tokens, self._max_cached_tokens())
            if chunk.finish is None:
                self._keep_to_hold(chunk.prompt_tokens)
        if chunk.read_prompt_tokens is not None:
            self._read_prompt_tokens = max(self._read_prompt_tokens, chunk.read_prompt_tokens)
        if chunk.completion_tokens is not None:
            self._engine_tokens = chunk.completion_tokens
        if chunk.durations is not None:
            self._durations = chunk.durations
        if chunk.served_by is not None:
            self._served_by = chunk.served_by
        if chunk.restarts or chunk.worked_s is not None:
            self._runs.take(chunk)

    def _keep_to_hold(self, prompt_tokens: int) -> None:
        hold = self._hold
        allowed = output_allowed(hold.units, hold.rates, prompt_tokens) if hold else None
        if allowed is None:
            return
        if allowed < 0 and not self.started:
            raise CallboardError(
                ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                f"The engine counts {prompt_tokens} tokens in this prompt, which is more than can be held for the "
                "request.",
                param="prompt" if self._request.mode == "completion" else "messages",
            )
        self.limit_to(allowed)

    def _split(self, chunk: Chunk) -> tuple[str, str]:
        text, thinking, thinking_tokens = chunk.text, chunk.thinking, chunk.thinking_tokens
        if self._splitter is not None:
            if thinking:
                self._splitter.leave()
            if text:
                text, split = self._splitter.feed(text)
                thinking_tokens += self._splitter.thinking_tokens(chunk.tokens - thinking_tokens, text, split)
                thinking += split
        self._pending_thinking_tokens += thinking_tokens
        if self._prefill is not None:
            text, thinking = self._new(self._prefill, text, thinking)
        if self._at_start:
            text = text.lstrip()
            self._at_start = not text
        if text and self._cutter is not None:
            text = self._cutter.feed(text)
        return text, thinking

    def _flush(self) -> tuple[str, str]:
        """What was held back, now that the engine is done."""
        text, thinking = self._splitter.flush() if self._splitter else ("", "")
        if self._prefill is not None:
            text, thinking = self._new(self._prefill, text, thinking, ended=True)
        if self._cutter is not None:
            text = self._cutter.feed(text) + self._cutter.flush()
        return text, thinking

    def _new(self, prefill: PrefillCheck, text: str, thinking: str, *, ended: bool = False) -> tuple[str, str]:
        """What is new in a run that may repeat what was said; raises EngineRefused."""
        if prefill.decided:
            return text, thinking
        text, thinking = prefill.feed(text, thinking, ended=ended)
        if prefill.restarted:
            # This run makes the whole reply, of which the first tokens are sent and counted already.
            self._base_tokens = 0
            self._pending_tokens = max(0, self._pending_tokens - self._tokens)
            self._pending_thinking_tokens = max(0, self._pending_thinking_tokens - self._thinking_tokens)
            self._pending_logprobs = self._pending_logprobs[self._tokens :]
        elif prefill.decided and self._pending_tokens > self._limit - self._tokens:
            # What was held back while nothing was certain goes past the limit.
            self._pending_tokens = self._pending_thinking_tokens = 0
            self.finish = "length"
            return "", ""
        return text, thinking

    def _piece(self, text: str, thinking: str, calls: tuple[ToolCall, ...] = ()) -> ChatFrame | None:
        """The frame for a part of the reply, with the tokens that wait for one; None where there is no such part."""
        if not (text or thinking or calls):
            return None
        tokens, self._pending_tokens = self._pending_tokens, 0
        return self._frame(text, thinking, tokens, calls)

    def _frame(
        self,
        text: str,
        thinking: str,
        tokens: int,
        calls: tuple[ToolCall, ...],
        end: ChatEnd | None = None,
        *,
        silent: bool = False,
    ) -> ChatFrame:
        self._tokens += tokens
        self._started = self._started or bool(text or thinking or tokens or calls)
        thinking_tokens = self._pending_thinking_tokens
        if thinking_tokens:
            thinking_tokens, self._pending_thinking_tokens = min(thinking_tokens, tokens), 0
            self._thinking_tokens += thinking_tokens
        if text:
            self._text.append(text)
        if thinking:
            self._thinking.append(thinking)
        logprobs, self._pending_logprobs = self._pending_logprobs, ()
        if logprobs:
            self._logprobs.append(logprobs)
        if (held := self._held_back) is not None:
            self._held_back = None
            frame = held.model_copy(
                update={
                    "tokens": held.tokens + tokens,
                    "thinking_tokens": held.thinking_tokens + thinking_tokens,
                    "logprobs": held.logprobs + logprobs,
                    "end": end,
                }
            )
        else:
            frame = ChatFrame(
                seq=self._next_seq,
                attempt=self._attempt,
                text=text,
                thinking=thinking,
                tokens=tokens,
                thinking_tokens=thinking_tokens,
                tool_calls=calls,
                logprobs=logprobs,
                restarts=self._runs.tell() if self._runs.restarts else 0,
                silent=silent,
                end=end,
            )
            self._next_seq += 1
        self._sent.append(frame)
        return frame


def _of_text(logprobs: tuple[TokenLogprob, ...], text: str) -> tuple[TokenLogprob, ...]:
    """Those of the first tokens that a text is made of; what follows was cut away."""
    kept, length = 0, 0
    while kept < len(logprobs) and length < len(text):
        length += len(logprobs[kept].token)
        kept += 1
    return logprobs[:kept]
