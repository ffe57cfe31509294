"""What the tokens of a model are, as far as prompts depend on it."""

from collections.abc import Sequence

from callboard_chat.domain.control_tokens import CONTROL, special_tokens
from callboard_chat.domain.front_cut import CHARACTER, LINE, NONE

BYTE = 6
"""The type of tokens that are one byte, written `<0x0A>`, as GGUF files number it."""
_NEWLINE_OF_BYTES = "\u010a"
"""How vocabularies of bytes write a newline: each byte that cannot be printed has a letter from 256 on."""


class Vocabulary:
    """The tokens of a model; of a model whose file has none, `size` is 0 and every border counts alike."""

    def __init__(self, tokens: Sequence[str] = (), types: Sequence[int] = ()) -> None:
        self.size = len(tokens)
        self.special = frozenset(special_tokens(tokens, types))
        """The texts that act as control tokens."""
        self.control_ids = frozenset(n for n, kind in enumerate(types) if kind == CONTROL)
        self._ends_line: set[int] = set()
        self._inside: set[int] = set()
        of_bytes = BYTE not in types
        letters = _continuation_letters()
        for n, (token, kind) in enumerate(zip(tokens, types, strict=True)):
            if kind == BYTE:
                value = int(token[1:-1], 16) if token.startswith("<0x") else 0
                if value == 0x0A:
                    self._ends_line.add(n)
                elif 0x80 <= value < 0xC0:
                    self._inside.add(n)
            elif token.endswith((_NEWLINE_OF_BYTES, "\n") if of_bytes else "\n"):
                self._ends_line.add(n)
            elif of_bytes and token[:1] in letters and kind != CONTROL:
                self._inside.add(n)

    def border(self, tokens: Sequence[int], at: int) -> int:
        """How good a border is before a token; see `front_cut`."""
        if at and tokens[at - 1] in self._ends_line:
            return LINE
        return NONE if at < len(tokens) and tokens[at] in self._inside else CHARACTER


def _continuation_letters() -> frozenset[str]:
    """How vocabularies of bytes write those that continue a character."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unprinted = [byte for byte in range(256) if byte not in printed]
    letters = {byte: chr(byte) for byte in printed} | {byte: chr(256 + n) for n, byte in enumerate(unprinted)}
    return frozenset(letters[byte] for byte in range(0x80, 0xC0))
