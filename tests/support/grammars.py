"""What a grammar of llguidance accepts, told without a model: its tokens are bytes."""

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from callboard_contracts.schema_grammar import grammar_schema

MAX_BYTES = 600
WIND_UP_BYTES = 160
"""From so many bytes on, a random reply heads for its end."""
_ENDS = b'"}],:'
_BYTES = LLTokenizer("byte")


class SchemaGrammar:
    """The grammar of a normalised schema, as the embedded engine gets it.

    Raises:
        ValueError: llguidance does not take it.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._matcher = LLMatcher(_BYTES, LLMatcher.grammar_from_json_schema(grammar_schema(schema)), log_level=0)
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())

    def accepts(self, value: Any) -> bool:
        """Whether a value in compact JSON is a whole reply."""
        self._matcher.reset()
        data = list(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        return self._matcher.try_consume_tokens(data) == len(data) and self._matcher.is_accepting()

    def reply(self, chance: Random) -> bytes | None:
        """A random whole reply; None where it comes to no end."""
        self._matcher.reset()
        said = bytearray()
        while len(said) < MAX_BYTES:
            mask = self._matcher.compute_bitmask()
            allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
            winds_up = len(said) > WIND_UP_BYTES
            if self._matcher.is_accepting() and (not allowed or winds_up or chance.random() < 0.3):
                return bytes(said)
            if not allowed:
                return None
            ends = [byte for byte in allowed if byte in _ENDS]
            printable = [byte for byte in allowed if 32 <= byte < 127]
            if ends and (winds_up or chance.random() < 0.35):
                choice = ends
            else:
                choice = printable if printable and chance.random() < 0.8 else allowed
            said.append(chance.choice(choice))
            self._matcher.consume_token(said[-1])
        return None
