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

    The newest attempt is right: its first frame takes the place of whatever an older one, which was given up for dead
    and went on for a moment, wrote from that number on.
    """
    kept: list[ChatFrame] = []
    first: int | None = None
    attempt = 0
    floor = 0
    for frame in frames:
        if first is None:
            first = frame.seq
        if frame.attempt > attempt:
            attempt, floor = frame.attempt, frame.seq
            del kept[max(0, frame.seq - first) :]
        elif frame.attempt < attempt and frame.seq >= floor:
            continue
        if frame.seq == first + len(kept):
            kept.append(frame)
    said = Continuation(
        "".join(frame.text for frame in kept),
        "".join(frame.thinking for frame in kept),
        sum(frame.tokens for frame in kept),
    )
    return History(
        next_seq=(first or 0) + len(kept),
        said=said,
        tool_calls=tuple(call for frame in kept for call in frame.tool_calls),
        end=next((frame.end for frame in kept if frame.end), None),
        whole=not first,
    )
