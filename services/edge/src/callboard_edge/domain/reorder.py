"""Puts what workers send back into one continuous stream: nothing twice, nothing missing, over all attempts."""

from collections.abc import Iterable
from dataclasses import dataclass

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult, ToolCall
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_edge.domain.ports import Segment


@dataclass(frozen=True, slots=True)
class _Mark:
    """What had been said before a frame, and which attempt wrote that frame."""

    text: int
    thinking: int
    tool_calls: int
    tokens: int
    attempt: int


class TextReorderBuffer:
    """The frames of one chat reply in the order of their numbers.

    The newest attempt is right where two disagree: a worker that was given up for dead may wake and write on, and
    what it writes after the newest attempt's first frame does not count. Where such text went out already, as many
    characters of the newest attempt's text are left out in its place, and as many of its tool calls.
    """

    def __init__(self) -> None:
        self.next_seq = 0
        self.attempt = 0
        self.tokens = 0
        self.end: ChatEnd | None = None
        self._floor: int | None = None
        self._held: dict[int, ChatFrame] = {}
        self._marks: list[_Mark] = []
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._text_length = 0
        self._thinking_length = 0
        self._tool_calls: list[ToolCall] = []
        self._skip_text = 0
        self._skip_thinking = 0
        self._skip_tool_calls = 0

    @property
    def missing(self) -> bool:
        """Whether a later frame is here while an earlier one is not."""
        return bool(self._held) and self.end is None

    @property
    def text(self) -> str:
        """The reply so far."""
        return "".join(self._text)

    @property
    def thinking(self) -> str:
        """The model's reasoning so far."""
        return "".join(self._thinking)

    def announce(self, attempt: int) -> None:
        """Notes that an attempt has begun, so that what older ones still send is left aside."""
        if attempt > self.attempt:
            self.attempt = attempt
            self._floor = None

    def feed(self, frames: Iterable[ChatFrame]) -> list[ChatFrame]:
        """Takes frames in any order and returns those that can go out now, in order."""
        ready: list[ChatFrame] = []
        for frame in frames:
            if self.end is not None:
                break
            if not self._counts(frame):
                continue
            if frame.seq == self.next_seq:
                ready.append(self._accept(frame))
                while self.end is None and (held := self._held.pop(self.next_seq, None)) is not None:
                    ready.append(self._accept(held))
            elif frame.seq not in self._held or self._held[frame.seq].attempt < frame.attempt:
                self._held[frame.seq] = frame
        return ready

    def complete(self, result: ChatResult) -> ChatFrame:
        """Ends the reply with the finished one that the board kept: what was not yet said, and its end."""
        said, thought = len(self.text), len(self.thinking)
        end = result.end
        text, thinking = "", ""
        tool_calls: tuple[ToolCall, ...] = ()
        called = len(self._tool_calls)
        if (
            result.text.startswith(self.text)
            and result.thinking.startswith(self.thinking)
            and result.tool_calls[:called] == tuple(self._tool_calls)
        ):
            text, thinking, tool_calls = result.text[said:], result.thinking[thought:], result.tool_calls[called:]
        elif end.reason != "error":
            error = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The reply was interrupted and cannot be continued.")
            end = ChatEnd(reason="error", usage=end.usage, error=error)
        frame = ChatFrame(
            seq=self.next_seq,
            attempt=max(1, self.attempt),
            text=text,
            thinking=thinking,
            tool_calls=tool_calls,
            end=end,
        )
        self._skip_text = self._skip_thinking = self._skip_tool_calls = 0
        return self._accept(frame)

    def _counts(self, frame: ChatFrame) -> bool:
        """Whether a frame has a place in the stream; a newer attempt's frame may take the place of older ones."""
        if frame.attempt < self.attempt:
            return self._floor is not None and self.next_seq <= frame.seq < self._floor
        if frame.attempt > self.attempt or self._floor is None or frame.seq < self._floor:
            self.attempt = frame.attempt
            self._floor = frame.seq
            for seq in [seq for seq, held in self._held.items() if seq >= frame.seq and held.attempt < frame.attempt]:
                del self._held[seq]
        if frame.seq < self.next_seq and self._marks[frame.seq].attempt < frame.attempt:
            self._rewind(frame.seq)
        return frame.seq >= self.next_seq

    def _rewind(self, seq: int) -> None:
        mark = self._marks[seq]
        self._skip_text = self._text_length - mark.text
        self._skip_thinking = self._thinking_length - mark.thinking
        self._skip_tool_calls = len(self._tool_calls) - mark.tool_calls
        self.tokens = mark.tokens
        self.next_seq = seq
        del self._marks[seq:]

    def _accept(self, frame: ChatFrame) -> ChatFrame:
        self._marks.append(
            _Mark(
                self._text_length - self._skip_text,
                self._thinking_length - self._skip_thinking,
                len(self._tool_calls) - self._skip_tool_calls,
                self.tokens,
                frame.attempt,
            )
        )
        if self._skip_text or self._skip_thinking or self._skip_tool_calls:
            frame = self._without_repeats(frame)
        self.next_seq += 1
        self.tokens += frame.tokens
        if frame.text:
            self._text.append(frame.text)
            self._text_length += len(frame.text)
        if frame.thinking:
            self._thinking.append(frame.thinking)
            self._thinking_length += len(frame.thinking)
        self._tool_calls += frame.tool_calls
        if frame.end is not None:
            self.end = frame.end
            self._held.clear()
        return frame

    def _without_repeats(self, frame: ChatFrame) -> ChatFrame:
        text, thinking = frame.text[self._skip_text :], frame.thinking[self._skip_thinking :]
        self._skip_text -= len(frame.text) - len(text)
        tool_calls = frame.tool_calls[self._skip_tool_calls :]
        self._skip_thinking -= len(frame.thinking) - len(thinking)
        self._skip_tool_calls -= len(frame.tool_calls) - len(tool_calls)
        return frame.model_copy(update={"text": text, "thinking": thinking, "tool_calls": tool_calls})


class SpeechReorderBuffer:
    """The segments of one utterance in the order of their numbers.

    A segment says where in which piece it starts, so audio that went out already is cut off where a newer attempt
    repeats it.
    """

    def __init__(self) -> None:
        self.next_n = 0
        self.attempt = 0
        self.ended = False
        self._held: dict[int, Segment] = {}
        self._floor: int | None = None
        self._attempts: list[int] = []
        self._piece = 0
        self._offset_bytes = 0

    @property
    def missing(self) -> bool:
        """Whether a later segment is here while an earlier one is not."""
        return bool(self._held) and not self.ended

    def announce(self, attempt: int) -> None:
        """Notes that an attempt has begun, so that what older ones still send is left aside."""
        if attempt > self.attempt:
            self.attempt = attempt
            self._floor = None

    def feed(self, segments: Iterable[Segment]) -> list[Segment]:
        """Takes segments in any order and returns those that can go out now, in order."""
        ready: list[Segment] = []
        for segment in segments:
            if self.ended:
                break
            if not self._counts(segment):
                continue
            held = self._held.get(segment.n)
            if held is None or held.info.attempt < segment.info.attempt:
                self._held[segment.n] = segment
            while not self.ended and (held := self._held.pop(self.next_n, None)) is not None:
                ready.append(self._accept(held))
        return ready

    def _counts(self, segment: Segment) -> bool:
        n, attempt = segment.n, segment.info.attempt
        if attempt < self.attempt:
            return self._floor is not None and self.next_n <= n < self._floor
        if attempt > self.attempt or self._floor is None or n < self._floor:
            self.attempt = attempt
            self._floor = n
            for later in [key for key, held in self._held.items() if key >= n and held.info.attempt < attempt]:
                del self._held[later]
        if n < self.next_n and self._attempts[n] < attempt:
            self.next_n = n
            del self._attempts[n:]
        return n >= self.next_n

    def _accept(self, segment: Segment) -> Segment:
        info = segment.info
        self._attempts.append(info.attempt)
        self.next_n += 1
        if info.end is not None:
            self.ended = True
            self._held.clear()
            return segment
        pcm = segment.pcm
        if info.piece < self._piece:
            return Segment(segment.n, info, b"")
        if info.piece > self._piece:
            self._piece, self._offset_bytes = info.piece, 0
        end_bytes = info.offset_bytes + len(pcm)
        if info.offset_bytes < self._offset_bytes:
            pcm = pcm[self._offset_bytes - info.offset_bytes :]
        self._offset_bytes = max(self._offset_bytes, end_bytes)
        return segment if pcm is segment.pcm else Segment(segment.n, info, pcm)
