"""Stop sequences, for engines that do not know them and as a promise for those that do.

The sequence that is complete first counts, so the result does not depend on how the text is cut into chunks.
"""

from collections.abc import Sequence

from callboard_chat.domain.thinking import overlap


class StopCutter:
    """Cuts arriving text before a stop sequence; text that may begin one is held until that is certain."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit: str | None = None
        """The sequence that appeared, once one has."""

    def feed(self, text: str) -> str:
        """Takes the next text and returns what may go out; after a hit nothing does."""
        if not self._stops:
            return text
        if self.hit is not None:
            return ""
        text = self._held + text
        self._held = ""
        hits = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            _, at, self.hit = min(hits)
            return text[:at]
        kept = max(overlap(text, stop) for stop in self._stops)
        if kept:
            self._held = text[len(text) - kept :]
            return text[: len(text) - kept]
        return text

    def flush(self) -> str:
        """Returns the text that was held, now that no stop sequence can complete it."""
        held, self._held = self._held, ""
        return "" if self.hit is not None else held
