"""Tags in raw prompts that stand for what a prompt format writes around turns.

KoboldAI Lite writes `{{[INPUT]}}` and its like where it does not know the model, and the server puts the model's own
texts there. The rules are KoboldCpp's: the last `{{[OUTPUT]}}` opens the reply; and where a client writes no ends, each
turn is ended where the next one begins.

Source: KoboldCpp, `koboldcpp.py`, the replacement of instruct placeholders.
"""

import re
from collections.abc import Sequence

from callboard_contracts.tokens import TurnTexts

_TAG = re.compile(r"\{\{\[(INPUT|OUTPUT|SYSTEM)(_END)?\]\}\}")
_OPENING = "{{[OUTPUT]}}"
_ENDS = ("{{[INPUT_END]}}", "{{[OUTPUT_END]}}")


def count(text: str) -> int:
    """How many tags a text has."""
    return sum(1 for _ in _TAG.finditer(text)) if "{{[" in text else 0


def last(text: str, most: int) -> str:
    """The end of a text, from the first of its last `most` tags on; the whole text where it has no more."""
    dropped = count(text) - most
    if dropped <= 0:
        return text
    return text[next(tag.start() for n, tag in enumerate(_TAG.finditer(text)) if n == dropped) :]


def replaced(memory: str, prompt: str, texts: TurnTexts) -> tuple[str, str]:
    """Memory and prompt with the format's texts in place of their tags; what was put in is not read again."""
    if "{{[" not in memory and "{{[" not in prompt:
        return memory, prompt
    prompt_opens = prompt.rfind(_OPENING)
    memory_opens = memory.rfind(_OPENING) if prompt_opens < 0 else -1
    ended = any(tag in memory or tag in prompt for tag in _ENDS)
    is_first_input = True

    def written(tag: re.Match[str], *, opens: bool) -> str:
        nonlocal is_first_input
        match tag[1], tag[2]:
            case "INPUT", None:
                before = "" if ended or is_first_input else texts.assistant_end
                is_first_input = False
                return before + texts.user_start
            case "OUTPUT", None:
                return ("" if ended else texts.user_end) + (texts.assistant_gen if opens else texts.assistant_start)
            case "SYSTEM", None:
                return texts.system_start
            case "INPUT", _:
                return texts.user_end
            case "OUTPUT", _:
                return texts.assistant_end
            case _:
                return texts.system_end

    return (
        _TAG.sub(lambda tag: written(tag, opens=tag.start() == memory_opens), memory),
        _TAG.sub(lambda tag: written(tag, opens=tag.start() == prompt_opens), prompt),
    )


def replaced_stops(stops: Sequence[str], texts: TurnTexts) -> tuple[str, ...]:
    """Stop sequences in which each tag is the format's text without blanks around it; empty ones are left out."""
    words = {
        "{{[INPUT]}}": texts.user_start,
        _OPENING: texts.assistant_start,
        "{{[SYSTEM]}}": texts.system_start,
        "{{[INPUT_END]}}": texts.user_end,
        "{{[OUTPUT_END]}}": texts.assistant_end,
        "{{[SYSTEM_END]}}": texts.system_end,
    }
    return tuple(dict.fromkeys(stop for each in stops if (stop := words[each].strip() if each in words else each)))
