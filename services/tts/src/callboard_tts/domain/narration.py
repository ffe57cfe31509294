"""The text of a chat reply that is read while it is written."""

from collections.abc import Iterable

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult, order_of_frames


class NarratedText:
    """Takes the frames of a reply in any order and hands its text out once.

    Where a newer attempt at the reply replaces frames that were handed out, as many characters of its text are left
    out, as an edge does for its client. Reasoning and errors are not part of the text.
    """

    def __init__(self) -> None:
        self.end: ChatEnd | None = None
        self._order = order_of_frames()
        self._starts: list[int] = []
        """Where each frame starts in the newest attempt's text."""
        self._length = 0
        self._said: list[str] = []
        self._said_length = 0

    @property
    def missing(self) -> bool:
        """Whether a later frame is here while an earlier one is not."""
        return self._order.missing and self.end is None

    @property
    def failed(self) -> bool:
        """Whether the reply broke off, so that its last sentence may not be whole."""
        return self.end is not None and self.end.reason in {"error", "cancelled"}

    def feed(self, frames: Iterable[ChatFrame]) -> str:
        """Takes frames and returns the text that follows."""
        before = len(self._said)
        for frame in frames:
            ordered = self._order.take(frame)
            if ordered.rewound_to is not None:
                self._length = self._starts[ordered.rewound_to]
                del self._starts[ordered.rewound_to :]
            for accepted in ordered.pieces:
                if self.end is None:
                    self._accept(accepted)
        return "".join(self._said[before:])

    def complete(self, result: ChatResult) -> str:
        """Ends the reply with its kept result and returns the rest of its text.

        A result that goes another way than what was handed out ends it there.
        """
        said = "".join(self._said)
        self.end = result.end
        if result.text.startswith(said):
            return result.text[len(said) :]
        self.end = ChatEnd(reason="error")
        return ""

    def _accept(self, frame: ChatFrame) -> None:
        self._starts.append(self._length)
        text = frame.text[max(0, self._said_length - self._length) :]
        self._length += len(frame.text)
        if text:
            self._said.append(text)
            self._said_length += len(text)
        self.end = frame.end
