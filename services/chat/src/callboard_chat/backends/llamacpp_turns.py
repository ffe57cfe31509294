"""What a model's chat template writes around turns, told from what it makes of a dialogue of marked words."""

from collections.abc import Awaitable, Callable, Sequence

from callboard_chat.backends.openai_wire import Json
from callboard_contracts.tokens import TurnTexts
from callboard_worker.engine import EngineError

Render = Callable[[Json], Awaitable[str]]

MAX_PART_CHARACTERS = 256
"""No turn needs more around it; a template that writes more has put something else there."""
_SYSTEM, _FIRST, _REPLY, _SECOND = "zqsystem", "zqfirst", "zqreply", "zqsecond"


async def turns_of_template(render: Render, start: str, end: str) -> TurnTexts | None:
    """The parts of a template; None where they cannot be told.

    `start` is what the engine itself puts before a prompt, and `end` the text of the token that ends replies.
    """
    plain, opened = await _rendered(render, _dialogue())
    if not plain:
        return None
    _, after_first, after_reply, user_end = _pieces(plain, _FIRST, _REPLY, _SECOND)
    generation = opened.removeprefix(plain) if opened.startswith(plain) else _pieces(opened, _SECOND)[-1]
    if opened == plain:
        # The template opens a reply whether it is told to or not, so only the token that ends one parts its turns.
        if not end or end not in after_reply:
            return None
        user_end, generation = _ended(user_end, end)
        after_first_end, assistant_start = _ended(after_first, end)
        if after_first_end != user_end:
            return None
    elif after_first.startswith(user_end):
        assistant_start = after_first.removeprefix(user_end)
        generation = generation.removeprefix(user_end) if not opened.startswith(plain) else generation
    else:
        return None
    user_start = await _user_start(render, plain, after_reply, user_end, end)
    if user_start is None:
        return None
    # What the engine puts before a prompt belongs to no turn.
    user_start = user_start.removeprefix(start)
    assistant_end = after_reply.removesuffix(user_start)
    system_start, system_end = await _system(render, start, user_start, user_end)
    texts = TurnTexts(
        system_start=system_start,
        system_end=system_end,
        user_start=user_start,
        user_end=user_end,
        assistant_start=assistant_start,
        assistant_end=assistant_end,
        assistant_gen=generation,
    )
    if any(len(part) > MAX_PART_CHARACTERS for part in texts.model_dump().values()):
        return None
    written = f"{_FIRST}{user_end}{assistant_start}{_REPLY}{assistant_end}{user_start}{_SECOND}{user_end}{generation}"
    return texts if user_start.strip() and opened.endswith(written) else None


async def _user_start(render: Render, plain: str, after_reply: str, user_end: str, end: str) -> str | None:
    """What opens a user's turn, between a reply and the next turn; None where that cannot be told."""
    twice = (await _rendered(render, [_user(_FIRST), _user(_SECOND)]))[0]
    if twice:
        between = _pieces(twice, _FIRST, _SECOND)[1]
        start = between.removeprefix(user_end)
        if between.startswith(user_end) and start and after_reply.endswith(start):
            return start
    before = plain[: plain.index(_FIRST)]
    if end and end in after_reply:
        return _ended(after_reply, end)[1]
    common = _common_end(before, after_reply)
    return common or None


async def _system(render: Render, start: str, user_start: str, user_end: str) -> tuple[str, str]:
    """What stands around a system prompt; a template without one has it in a user's turn."""
    messages = [{"role": "system", "content": _SYSTEM}, _user(_FIRST)]
    text = (await _rendered(render, messages))[0]
    if _SYSTEM not in text or text.find(_SYSTEM) > text.find(_FIRST):
        return user_start, user_end
    before, between, _ = _pieces(text, _SYSTEM, _FIRST)
    before = before.removeprefix(start)
    if between.endswith(user_start):
        return before, between.removesuffix(user_start)
    if before == user_start or not before.startswith(user_start):
        return user_start, user_end
    return before.removeprefix(user_start), between


async def _rendered(render: Render, messages: Sequence[Json]) -> tuple[str, str]:
    """A dialogue without and with the opening of a reply; empty where the template does not take it."""
    wanted = {message["content"] for message in messages}
    try:
        texts = [await render({"messages": list(messages), "add_generation_prompt": each}) for each in (False, True)]
    except EngineError:
        return "", ""
    if any(text.count(word) != 1 for text in texts for word in wanted):
        return "", ""
    return texts[0], texts[1]


def _dialogue() -> list[Json]:
    return [_user(_FIRST), {"role": "assistant", "content": _REPLY}, _user(_SECOND)]


def _user(content: str) -> Json:
    return {"role": "user", "content": content}


def _pieces(text: str, *words: str) -> list[str]:
    """What stands before, between and after words that a text has once each."""
    pieces: list[str] = []
    for word in words:
        before, _, text = text.partition(word)
        pieces.append(before)
    return [*pieces, text]


def _ended(text: str, end: str) -> tuple[str, str]:
    """The end of a turn, up to its last token and the line after it, and what follows."""
    at = text.find(end) if end else -1
    if at < 0:
        return "", text
    rest = text[at + len(end) :]
    opening = rest.lstrip("\n")
    return text[: len(text) - len(opening)], opening


def _common_end(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]
