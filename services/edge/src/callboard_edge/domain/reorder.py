"""Puts what workers send back into one continuous stream: nothing twice, nothing missing, over all attempts."""

from collections.abc import Iterable
from dataclasses import dataclass

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult, ToolCall, order_of_frames
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.interest import ResumeReply
from callboard_contracts.speech import BYTES_PER_MS, AudioSegment, order_of_segments


@dataclass(slots=True)
class _Count:
    """How much text, thinking, tool calls and tokens there are."""

    text: int = 0
    thinking: int = 0
    tool_calls: int = 0
    tokens: int = 0
    thinking_tokens: int = 0


class TextReorderBuffer:
    """The frames of one chat reply in order.

    Where a newer attempt replaces frames that went out already, as many characters of its text are left out, and as
    many of its tool calls: the client has something in their place.
    """

    def __init__(self) -> None:
        self.end: ChatEnd | None = None
        self._order = order_of_frames()
        self._before: list[tuple[int, int, int, int, int]] = []
        """What the stream held before each frame, in the newest attempt's own count."""
        self._count = _Count()
        self._skip = _Count()
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[ToolCall] = []

    @property
    def next_seq(self) -> int:
        """The number of the frame that comes next."""
        return self._order.next_number

    @property
    def attempt(self) -> int:
        """The newest attempt seen."""
        return self._order.attempt

    @property
    def ended(self) -> bool:
        """Whether the end is here."""
        return self.end is not None

    @property
    def missing(self) -> bool:
        """Whether a later frame is here while an earlier one is not."""
        return self.end is None and self._order.missing

    @property
    def text(self) -> str:
        """The reply so far."""
        return "".join(self._text)

    @property
    def thinking(self) -> str:
        """The model's reasoning so far."""
        return "".join(self._thinking)

    @property
    def tokens(self) -> int:
        """How many tokens the newest attempt's frames stand for."""
        return self._count.tokens

    def announce(self, attempt: int) -> None:
        """Notes that an attempt has begun, so that what older ones still send is left aside."""
        self._order.announce(attempt)

    def resume(self) -> ResumeReply:
        """How far the reply has come, for a worker that takes it over."""
        return ResumeReply(
            open=not self.ended,
            attempt=self.attempt,
            next_seq=self.next_seq,
            text=self.text,
            thinking=self.thinking,
            tokens=self.tokens,
            thinking_tokens=self._count.thinking_tokens,
        )

    def feed(self, frames: Iterable[ChatFrame]) -> list[ChatFrame]:
        """Takes frames in any order and returns those that can go out now, in order."""
        ready: list[ChatFrame] = []
        for frame in frames:
            if self.end is not None:
                break
            ordered = self._order.take(frame)
            if ordered.rewound_to is not None:
                self._rewind(ordered.rewound_to)
            for accepted in ordered.pieces:
                ready.append(self._accept(accepted))
                if self.end is not None:
                    break
        return ready

    def complete(self, result: ChatResult) -> ChatFrame:
        """Ends the reply with its kept result: what has not been sent yet, and the end."""
        end = result.end
        text, thinking = "", ""
        tool_calls: tuple[ToolCall, ...] = ()
        sent = len(self._tool_calls)
        if (
            result.text.startswith(self.text)
            and result.thinking.startswith(self.thinking)
            and result.tool_calls[:sent] == tuple(self._tool_calls)
        ):
            text, thinking = result.text[len(self.text) :], result.thinking[len(self.thinking) :]
            tool_calls = result.tool_calls[sent:]
        elif end.reason != "error":
            error = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The reply was interrupted and cannot be continued.")
            end = ChatEnd(reason="error", usage=end.usage, error=error)
        self._skip = _Count()
        return self._accept(
            ChatFrame(
                seq=self.next_seq,
                attempt=max(1, self.attempt),
                text=text,
                thinking=thinking,
                tool_calls=tool_calls,
                end=end,
            )
        )

    def _rewind(self, seq: int) -> None:
        before = _Count(*self._before[seq])
        del self._before[seq:]
        self._skip = _Count(
            sum(map(len, self._text)) - before.text,
            sum(map(len, self._thinking)) - before.thinking,
            len(self._tool_calls) - before.tool_calls,
        )
        self._count = before

    def _accept(self, frame: ChatFrame) -> ChatFrame:
        count = self._count
        self._before.append((count.text, count.thinking, count.tool_calls, count.tokens, count.thinking_tokens))
        count.text += len(frame.text)
        count.tokens += frame.tokens
        count.thinking_tokens += frame.thinking_tokens
        if frame.thinking or frame.tool_calls:
            count.thinking += len(frame.thinking)
            count.tool_calls += len(frame.tool_calls)
        skip = self._skip
        if skip.text or skip.thinking or skip.tool_calls:
            frame = self._without_repeats(frame)
        if frame.text:
            self._text.append(frame.text)
        if frame.thinking:
            self._thinking.append(frame.thinking)
        self._tool_calls += frame.tool_calls
        if frame.end is not None:
            self.end = frame.end
            self._order.clear()
        return frame

    def _without_repeats(self, frame: ChatFrame) -> ChatFrame:
        skip = self._skip
        text, thinking = frame.text[skip.text :], frame.thinking[skip.thinking :]
        tool_calls = frame.tool_calls[skip.tool_calls :]
        skip.text -= len(frame.text) - len(text)
        skip.thinking -= len(frame.thinking) - len(thinking)
        skip.tool_calls -= len(frame.tool_calls) - len(tool_calls)
        return frame.model_copy(update={"text": text, "thinking": thinking, "tool_calls": tool_calls})


class SpeechReorderBuffer:
    """The segments of one utterance in order.

    A segment says where in which piece it starts, so audio that went out already is cut off where a newer attempt
    repeats it. `first` is the number to begin with.
    """

    def __init__(self, first: int = 0) -> None:
        self.ended = False
        self._order = order_of_segments(first)
        self._piece = 0
        self._offset_bytes = 0

    @property
    def next_n(self) -> int:
        """The number of the segment that comes next."""
        return self._order.next_number

    @property
    def attempt(self) -> int:
        """The newest attempt seen."""
        return self._order.attempt

    @property
    def missing(self) -> bool:
        """Whether a later segment is here while an earlier one is not."""
        return self._order.missing and not self.ended

    def announce(self, attempt: int) -> None:
        """Notes that an attempt has begun, so that what older ones still send is left aside."""
        self._order.announce(attempt)

    def resume(self) -> ResumeReply:
        """How far the utterance has come, for a worker that takes it over."""
        return ResumeReply(open=True, attempt=self.attempt, next_seq=self.next_n)

    def feed(self, segments: Iterable[AudioSegment]) -> list[AudioSegment]:
        """Takes segments in any order and returns those that can go out now, in order."""
        ready: list[AudioSegment] = []
        for segment in segments:
            if self.ended:
                break
            for accepted in self._order.take(segment).pieces:
                ready.append(self._accept(accepted))
                if self.ended:
                    break
        return ready

    def _accept(self, segment: AudioSegment) -> AudioSegment:
        info = segment.info
        if info.end is not None:
            self.ended = True
            self._order.clear()
            return segment
        if info.piece < self._piece:
            return AudioSegment(segment.n, info.model_copy(update={"words": ()}), b"")
        if info.piece > self._piece:
            self._piece, self._offset_bytes = info.piece, 0
        skip_bytes = max(0, self._offset_bytes - info.offset_bytes)
        begin_bytes = info.offset_bytes + skip_bytes
        self._offset_bytes = max(self._offset_bytes, info.offset_bytes + len(segment.pcm))
        if not skip_bytes:
            return segment
        words = tuple(word for word in info.words if word.start_ms * BYTES_PER_MS >= begin_bytes)
        rest = info.model_copy(update={"offset_bytes": begin_bytes, "words": words})
        return AudioSegment(segment.n, rest, segment.pcm[skip_bytes:])
