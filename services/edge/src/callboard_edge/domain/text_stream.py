"""A chat reply as its reader sees it: one continuous stream of frames."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult, TokenLogprob, TokenUsage, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.domain.job_stream import KEEP_ALIVE_S, FailedAfterOutput, JobStream, StreamSource
from callboard_edge.domain.ports import Inbox, ReplyRouter, RequestState
from callboard_edge.domain.reorder import TextReorderBuffer


class TextSource(StreamSource[ChatFrame]):
    """The frames of one chat request; its kept result ends the stream when the frames are gone."""

    def __init__(self, replies: ReplyRouter, request_id: str) -> None:
        self._replies = replies
        self._request_id = request_id
        self._reorder = TextReorderBuffer()
        super().__init__(self._reorder)

    def open(self, state: RequestState) -> Inbox[ChatFrame]:
        """Begins to collect frames."""
        return self._replies.open_text(self._request_id, state)

    async def replay(self) -> Sequence[ChatFrame]:
        """Reads all frames back."""
        return await self._replies.replay_text(self._request_id)

    async def complete(self) -> Sequence[ChatFrame]:
        """The rest of the reply, from its kept result."""
        result = await self.result()
        arrived = self._reorder.feed(self.inbox.drain())
        return [*arrived, self._reorder.complete(result)] if result is not None and not self._reorder.ended else arrived

    async def result(self) -> ChatResult | None:
        """The kept result, or None."""
        return await self._replies.result(self._request_id)


@dataclass(slots=True)
class TextReply:
    """A whole reply."""

    end: ChatEnd
    text: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])


STOPPED = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The reply was stopped.")


class TextStream(JobStream[ChatFrame]):
    """A chat job; the last frame has the end.

    `on_frames`, where it is set, is called with what the reader takes.
    """

    on_frames: Callable[[Sequence[ChatFrame]], None] | None = None
    heard: Callable[[], str] | None = None
    """Says what was heard of a reply that is interrupted, where its character is to remember so much of it."""
    _stopping = False
    _cut = False
    _tokens = _thinking_tokens = 0

    @property
    def ended(self) -> bool:
        """Whether the end of the stream has been taken."""
        return self._cut or super().ended

    def stop(self) -> None:
        """Ends the stream for its reader with what has arrived; its job is cancelled when the reader leaves."""
        self._stopping = True
        self._source.inbox.fail(STOPPED)

    def _handed_out(self, ready: Sequence[ChatFrame]) -> Sequence[ChatFrame]:
        for frame in ready:
            self._tokens += frame.tokens
            self._thinking_tokens += frame.thinking_tokens
        if self.on_frames is not None:
            self.on_frames(ready)
        return super()._handed_out(ready)

    def _failed(self, error: ErrorInfo) -> Sequence[ChatFrame]:
        """A stream that was stopped ends as one whose reply became too long."""
        return self._handed_out(self._cut_short()) if self._stopping else super()._failed(error)

    def _cut_short(self) -> Sequence[ChatFrame]:
        arrived = self._source.take()
        if super().ended:
            return arrived
        self._cut = True
        tokens = self._tokens + sum(frame.tokens for frame in arrived)
        thinking = self._thinking_tokens + sum(frame.thinking_tokens for frame in arrived)
        end = ChatEnd(reason="length", usage=TokenUsage(completion_tokens=tokens, thinking_tokens=thinking))
        return [*arrived, ChatFrame(seq=0, attempt=1, end=end)]

    async def collect(self, on_silence: Callable[[], Awaitable[None]] | None = None) -> TextReply:
        """Waits for the whole reply; `on_silence` is called after each long silence.

        Raises:
            FailedAfterOutput: it failed after a part of it had been written, which is charged.
            CallboardError: it failed before.
        """
        text: list[str] = []
        thinking: list[str] = []
        reply = TextReply(ChatEnd(reason="error"))
        emitted = False
        try:
            async for frames in self.batches(KEEP_ALIVE_S):
                if not frames and on_silence is not None:
                    await on_silence()
                for frame in frames:
                    text.append(frame.text)
                    thinking.append(frame.thinking)
                    reply.tool_calls += frame.tool_calls
                    # Those of thinking are none of the reply's own.
                    reply.logprobs += frame.logprobs if frame.text or not frame.thinking else ()
                    emitted = emitted or has_output(frame)
                    reply.end = frame.end or reply.end
        except CallboardError as error:
            raise FailedAfterOutput.of(error.info) if emitted else error from None
        if (failed := failure(reply.end)) is not None:
            raise (FailedAfterOutput if emitted else CallboardError).of(failed)
        reply.text, reply.thinking = "".join(text), "".join(thinking)
        return reply


def has_output(frame: ChatFrame) -> bool:
    """Whether a frame holds a part of the reply."""
    return frame.tokens > 0 or bool(frame.text or frame.thinking or frame.tool_calls)


def failure(end: ChatEnd) -> ErrorInfo | None:
    """The error of an end that is no reply's own."""
    if end.reason == "error":
        return end.error or ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")
    if end.reason == "cancelled":
        return ErrorInfo(code=ErrorCode.INTERRUPTED, message="The reply was interrupted.")
    return None
