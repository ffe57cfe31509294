"""How turns are written in prompts, by forms that models were trained on and that no engine knows.

The wording is that of each form's authors, to the byte.

Sources: OpenAI, `chatml.md` of openai-python (the form with names). Stanford Alpaca, `train.py`, the prompt without
input. PygmalionAI, the model cards of metharme-7b and pygmalion-6b. KoboldCpp, its defaults for turn tags.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from callboard_contracts.chat import ChatMessage, PromptFormat
from callboard_contracts.tokens import TurnTexts

MAX_NAME_CHARACTERS = 64
USER, CHARACTER = "You", "Character"
"""Who speaks in Pygmalion's form where nobody says."""
_ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_CHATML_MARK = "<|im_start|>"


@dataclass(frozen=True, slots=True)
class WrittenPrompt:
    """A dialogue as a prompt for its next reply.

    `head` is what comes before the dialogue, which starts with `dialogue`. `stop` ends a reply where the next turn
    would begin, and the blank that a model writes first is not part of it.
    """

    head: str
    dialogue: str
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OwnTurns:
    """What an engine's own chat template writes around turns; `format` names another form where that is not known."""

    texts: TurnTexts
    format: PromptFormat = "own"


@dataclass(frozen=True, slots=True)
class Format:
    """One form: what it writes around turns, the texts in which it is recognised, and how it writes a dialogue.

    `gap` stands between the opening of a reply and a reply that has begun.
    """

    texts: TurnTexts
    marks: Callable[[Sequence[ChatMessage]], tuple[str, ...]]
    write: Callable[[Sequence[ChatMessage]], WrittenPrompt]
    gap: str = ""


def _name(message: ChatMessage) -> str:
    return " ".join((message.name or "").split())[:MAX_NAME_CHARACTERS].strip()


def _split(messages: Sequence[ChatMessage]) -> tuple[str, Sequence[ChatMessage]]:
    """The system prompt at the beginning, and the rest of a dialogue."""
    first = next((n for n, message in enumerate(messages) if message.role != "system"), len(messages))
    return "\n\n".join(message.content for message in messages[:first]), messages[first:]


def _continues(messages: Sequence[ChatMessage]) -> bool:
    """Whether a dialogue ends in the start of the reply."""
    return bool(messages) and messages[-1].role == "assistant"


def _chatml(messages: Sequence[ChatMessage]) -> WrittenPrompt:
    parts: list[str] = []
    for message in messages:
        name = f" name={name}" if (name := _name(message)) and message.role != "assistant" else ""
        parts.append(f"<|im_start|>{message.role}{name}\n{message.content}<|im_end|>\n")
    if _continues(messages):
        parts[-1] = parts[-1].removesuffix("<|im_end|>\n")
    else:
        parts.append("<|im_start|>assistant\n")
    heads = sum(1 for _ in _leading_system(messages))
    return WrittenPrompt("".join(parts[:heads]), "".join(parts[heads:]), ("<|im_end|>", "<|im_start|>"))


def _leading_system(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    return messages[: len(messages) - len(_split(messages)[1])]


def _alpaca(messages: Sequence[ChatMessage]) -> WrittenPrompt:
    system, turns = _split(messages)
    parts = [
        f"### Response:{message.content}\n\n"
        if message.role == "assistant"
        else f"### Instruction:\n{message.content}\n\n"
        for message in turns
    ]
    if _continues(turns):
        parts[-1] = parts[-1].removesuffix("\n\n")
    else:
        parts.append("### Response:")
    stop = ("### Instruction:", "### Response:")
    return WrittenPrompt(f"{system or _ALPACA_PREAMBLE}\n\n", "".join(parts), stop)


def _metharme(messages: Sequence[ChatMessage]) -> WrittenPrompt:
    names = {"system": "<|system|>", "assistant": "<|model|>"}
    parts = [names.get(message.role, "<|user|>") + message.content for message in messages]
    heads = len(_leading_system(messages))
    if not _continues(messages):
        parts.append("<|model|>")
    return WrittenPrompt("".join(parts[:heads]), "".join(parts[heads:]), ("<|user|>", "<|model|>", "<|system|>"))


def _pygmalion(messages: Sequence[ChatMessage]) -> WrittenPrompt:
    system, turns = _split(messages)
    character = _character(messages)
    parts: list[str] = []
    for message in turns:
        if message.role == "system":
            parts.append(f"{message.content}\n")
            continue
        name = character if message.role == "assistant" else _name(message) or USER
        parts.append(f"{name}: {message.content}\n")
    if _continues(turns):
        parts[-1] = parts[-1].removesuffix("\n")
    else:
        parts.append(f"{character}:")
    persona = f"{character}'s Persona: {system}\n" if system else ""
    return WrittenPrompt(f"{persona}<START>\n", "".join(parts), _pygmalion_marks(messages))


def _character(messages: Sequence[ChatMessage]) -> str:
    """Who the model speaks as: the name of its latest turn that has one, else of the system prompt."""
    named = [*reversed([each for each in messages if each.role == "assistant"]), *_leading_system(messages)]
    return next((name for message in named if (name := _name(message))), CHARACTER)


def _pygmalion_marks(messages: Sequence[ChatMessage]) -> tuple[str, ...]:
    users = dict.fromkeys([USER, *(_name(each) or USER for each in messages if each.role in {"user", "tool"})])
    return (*(f"\n{user}:" for user in users), f"\n{_character(messages)}:", "<START>")


_INSTRUCTION, _RESPONSE = "\n### Instruction:\n", "\n### Response:\n"
FORMATS: dict[PromptFormat, Format] = {
    "chatml": Format(
        TurnTexts(
            system_start="<|im_start|>system\n",
            system_end="<|im_end|>\n",
            user_start="<|im_start|>user\n",
            user_end="<|im_end|>\n",
            assistant_start="<|im_start|>assistant\n",
            assistant_end="<|im_end|>\n",
            assistant_gen="<|im_start|>assistant\n",
        ),
        lambda _: ("<|im_start|>", "<|im_end|>"),
        _chatml,
    ),
    "alpaca": Format(
        TurnTexts(
            system_start=_INSTRUCTION,
            user_start=_INSTRUCTION,
            assistant_start=_RESPONSE,
            assistant_gen=_RESPONSE,
        ),
        lambda _: ("### Instruction:", "### Response:"),
        _alpaca,
    ),
    "metharme": Format(
        TurnTexts(
            system_start="<|system|>",
            user_start="<|user|>",
            assistant_start="<|model|>",
            assistant_gen="<|model|>",
        ),
        lambda _: ("<|system|>", "<|user|>", "<|model|>"),
        _metharme,
    ),
    "pygmalion": Format(
        TurnTexts(
            system_end="\n<START>\n",
            user_start=f"{USER}: ",
            user_end="\n",
            assistant_start=f"{CHARACTER}: ",
            assistant_end="\n",
            assistant_gen=f"{CHARACTER}:",
        ),
        _pygmalion_marks,
        _pygmalion,
        gap=" ",
    ),
}
"""Every form but the model's own."""


def fallback_turns(template: str) -> OwnTurns:
    """What stands in for turns that cannot be told: ChatML where a template or vocabulary has its mark, else Alpaca."""
    known: PromptFormat = "chatml" if _CHATML_MARK in template else "alpaca"
    return OwnTurns(FORMATS[known].texts, known)
