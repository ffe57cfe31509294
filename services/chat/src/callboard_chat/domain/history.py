"""What is already known of a reply when a worker takes it over."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from callboard_chat.domain.ports import Continuation
from callboard_contracts.chat import ChatEnd, ChatFrame, ToolCall


@dataclass(frozen=True, slots=True)
class History:
    """A reply so far: what was said, the number of its next frame, and its end if it has one.

    `whole` is false when its beginning is no longer known.
    """

    next_seq: int = 0
    said: Continuation = field(default_factory=Continuation)
    tool_calls: tuple[ToolCall, ...] = ()
    end: ChatEnd | None = None
    whole: bool = True


def history(frames: Iterable[ChatFrame]) -> History:
    """Puts frames, in the order in which they were stored, together as a receiver does.

    A frame counts when it is the next one and its attempt is no older than the newest seen: a worker that was given
    up for dead may have gone on for a moment.
    """
    text: list[str] = []
    thinking: list[str] = []
    calls: list[ToolCall] = []
    tokens = 0
    next_seq: int | None = None
    first = 0
    attempt = 0
    end: ChatEnd | None = None
    for frame in frames:
        if next_seq is None:
            first = next_seq = frame.seq
        if frame.seq != next_seq or frame.attempt < attempt or end is not None:
            continue
        attempt = frame.attempt
        next_seq += 1
        text.append(frame.text)
        thinking.append(frame.thinking)
        calls += frame.tool_calls
        tokens += frame.tokens
        end = frame.end
    said = Continuation("".join(text), "".join(thinking), tokens)
    return History(next_seq or 0, said, tuple(calls), end, whole=first == 0)
