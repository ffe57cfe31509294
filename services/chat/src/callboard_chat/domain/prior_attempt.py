"""What is already known of a reply when a worker takes it over."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from callboard_chat.domain.ports import Continuation
from callboard_contracts.chat import ChatEnd, ChatFrame, TokenLogprob, ToolCall, order_of_frames
from callboard_contracts.ordering import newest
from callboard_contracts.quota import Work


@dataclass(frozen=True, slots=True)
class History:
    """A reply so far: what was said, the number of its next frame, and its end if it has one.

    `whole` is false when its beginning is no longer known; `prompt_tokens` is what an engine counted. It is `silent`
    where its frames say nothing of the reply yet.
    """

    next_seq: int = 0
    said: Continuation = field(default_factory=Continuation)
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    end: ChatEnd | None = None
    whole: bool = True
    prompt_tokens: int | None = None
    silent: bool = False

    @property
    def started(self) -> bool:
        """Whether anything of the reply was said."""
        return self.next_seq > 0 and not self.silent

    @property
    def sent(self) -> Work:
        """What the reply has used so far, as far as it was counted."""
        return Work(prompt_tokens=self.prompt_tokens or 0, completion_tokens=self.said.tokens)


def history(frames: Iterable[ChatFrame]) -> History:
    """Puts frames, in the order in which they were stored, together as a receiver does."""
    found = list(frames)
    first = min((frame.seq for frame in found), default=0)
    kept = newest(order_of_frames(first), found)
    silent = bool(kept) and kept[-1].silent
    said = Continuation(
        "".join(frame.text for frame in kept),
        "".join(frame.thinking for frame in kept),
        sum(frame.tokens for frame in kept),
        sum(frame.thinking_tokens for frame in kept),
    )
    return History(
        next_seq=first + len(kept),
        said=said,
        tool_calls=tuple(call for frame in kept for call in frame.tool_calls),
        logprobs=tuple(logprob for frame in kept for logprob in frame.logprobs),
        end=next((frame.end for frame in kept if frame.end), None),
        whole=first == 0 or silent,
        silent=silent,
    )
