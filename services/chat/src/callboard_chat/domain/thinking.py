"""Keeps a model's reasoning apart from its reply, however the text is cut into chunks."""

OPEN = "<think>"
CLOSE = "</think>"


class ThinkingSplitter:
    """Splits arriving text into reply and reasoning; a tag may be spread over any number of chunks.

    White space around a block that stands at the beginning belongs to neither. With `leading_only` a block counts only
    there: JSON may hold the tag as a plain string.
    """

    def __init__(self, *, inside: bool = False, has_text: bool = False, leading_only: bool = False) -> None:
        self._inside = inside
        self._has_text = has_text
        self._leading_only = leading_only
        self._strip = inside
        self._held = ""
        self._was_inside = inside
        self._uncertain_tokens = 0

    def leave(self) -> None:
        """Ends a block that the engine itself has split off, so that its tags will not appear."""
        self._inside = False

    def feed(self, text: str) -> tuple[str, str]:
        """Takes the next text and returns what of it is certain: reply, reasoning."""
        if not self._inside and not self._held and ("<" not in text or (self._has_text and self._leading_only)):
            return (text if self._has_text else self._begin(text)), ""
        rest = self._held + text
        self._held = ""
        reply: list[str] = []
        thinking: list[str] = []
        while rest:
            if self._inside:
                rest = self._read(rest, CLOSE, thinking)
                continue
            if not self._has_text:
                content = rest.lstrip()
                if not content:
                    self._held = rest
                    break
                if not content.startswith(OPEN):
                    if OPEN.startswith(content):
                        self._held = rest
                        break
                    self._has_text = True
                    rest = content if self._strip else rest
                    if self._leading_only:
                        reply.append(rest)
                        break
                else:
                    rest = content
            rest = self._read(rest, OPEN, reply)
        return "".join(reply), "".join(thinking)

    def thinking_tokens(self, tokens: int, text: str, thinking: str) -> int:
        """How many tokens are reasoning, now that a chunk of so many was split in two.

        Tags are part of it. A chunk that has both parts is shared out by their lengths.
        """
        tokens += self._uncertain_tokens
        inside = self._inside or self._was_inside
        self._was_inside = self._inside
        self._uncertain_tokens = 0
        if text and not thinking:
            return 0
        if thinking:
            return round(tokens * len(thinking) / (len(text) + len(thinking)))
        if inside:
            return tokens
        # It may be the beginning of a tag.
        self._uncertain_tokens = tokens
        return 0

    def flush(self) -> tuple[str, str]:
        """Returns what was held back, now that nothing more comes: reply, reasoning."""
        held, self._held = self._held, ""
        if self._inside:
            return "", held
        return (held, "") if held.strip() else ("", "")

    def _begin(self, text: str) -> str:
        """What of the reply's first text is certain, which holds no tag."""
        content = text.lstrip()
        if not content:
            self._held = text
            return ""
        self._has_text = True
        return content if self._strip else text

    def _read(self, rest: str, tag: str, into: list[str]) -> str:
        """Moves text up to the tag, or up to what may become the tag; returns what follows the tag."""
        before, found, after = rest.partition(tag)
        if not found:
            kept = overlap(rest, tag)
            self._held = rest[len(rest) - kept :]
            before = rest[: len(rest) - kept]
        else:
            self._inside = not self._inside
        if before:
            into.append(before)
        self._strip = self._strip or bool(found)
        return after


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of a text may be the beginning, but not the whole, of a mark."""
    most = min(len(text), len(mark) - 1)
    if most < 1 or mark[0] not in text[-most:]:
        return 0
    for length in range(most, 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
