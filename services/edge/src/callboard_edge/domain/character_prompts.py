"""What a character's model is given: its prefix with the placeholders filled in, and who said the last line.

The placeholders are Evennia's, and the macros those of character cards. Both are filled in in one pass, so that nothing
that a visitor is called is read as one of them.
"""

import re
from dataclasses import dataclass

from callboard_contracts.characters import Character, CharacterPromptFormat, speaker_name
from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling
from callboard_edge.domain.catalogue import ChatModel

NOBODY = "the visitor"
"""Who speaks where nobody is named."""
NO_DESC, NO_LOCATION = "someone", "the void"
"""What Evennia writes for a character without a description or a place."""
_MARK = re.compile(
    r"(?<!\{)\{(name|desc|location|character)\}(?!\})|\{\{(char|user)\}\}|<(bot|char|user)>", re.IGNORECASE
)
_MACRO = re.compile(r"()\{\{(char|user)\}\}|<(bot|char|user)>", re.IGNORECASE)
_TAG = "{{["
_LINE = re.compile(r"(?P<speaker>[^:\n]{1,64}):[ \t]+(?P<text>\S.*)")
_WITHOUT_PROMPT = {"memory": "", "turn_tags": False, "overflow": "refuse"}
"""What a request says of a prompt of its own; the room fits its dialogue into the context."""
_DEFAULTS = {name: field.default for name, field in Sampling.model_fields.items()}


@dataclass(frozen=True, slots=True)
class SpokenLine:
    """What somebody says to a character."""

    speaker: str
    text: str


def spoken_line(request: ChatRequest, character: Character) -> SpokenLine | None:
    """The last line of a request and who says it; None where that cannot be told, or is no line of a dialogue.

    It is a message of the role `user`, or the end of a prompt: its last line where that is of the form `Name: text`,
    else, where the request names the speaker, all of it.
    """
    if request.tools:
        return None
    if request.mode == "chat":
        last = request.messages[-1] if request.messages else None
        if last is None or last.role != "user" or last.images:
            return None
        speaker, text = speaker_name(request.speaker or last.name), last.content
    else:
        prompt = request.prompt.strip()
        line = prompt.rpartition("\n")[2]
        # A turn tag begins a line of another form.
        match = None if request.turn_tags and _TAG in line else _LINE.fullmatch(line)
        if match is not None and match["speaker"].strip().casefold() == character.display_name.casefold():
            # The prompt is a line of the character's own that the model is to go on with.
            return None
        speaker = speaker_name(request.speaker or (match["speaker"] if match else ""))
        text = match["text"] if match else prompt
    return SpokenLine(speaker, text.strip()) if speaker and text.strip() else None


def rendered(text: str, character: Character, speaker: str) -> str:
    """A text of a character with its placeholders and macros filled in; other braces stay as they are."""
    name, user = character.display_name, speaker or NOBODY
    people = {"char": name, "bot": name, "user": user}

    def person(match: re.Match[str]) -> str:
        return people[(match[2] or match[3]).lower()]

    values = {
        "name": name,
        "character": user,
        "desc": _MACRO.sub(person, character.desc) or NO_DESC,
        "location": _MACRO.sub(person, character.location) or NO_LOCATION,
    }

    def filled(match: re.Match[str]) -> str:
        # Python's own placeholders are written in small letters.
        return person(match) if not match[1] else values.get(match[1], match[0])

    return _MARK.sub(filled, text)


def prefix(character: Character, speaker: str) -> str:
    """What stands before every dialogue with a character."""
    parts = [character.prompt]
    if character.example_dialogue.strip():
        parts.append(f"Example dialogue:\n{character.example_dialogue.strip()}")
    return rendered("\n\n".join(parts), character, speaker)


def opening_request(request: ChatRequest, model: ChatModel, speaker: str) -> ChatRequest:
    """What a character's model is asked where its memory has the dialogue: the prefix, and the client's settings."""
    character = _character(model)
    text = prefix(character, speaker)
    if character.prompt_format == "plain":
        # The model would go on with the visitor's next line.
        stop = (f"\n{speaker}:", f"\n{character.display_name}:")
        update = {"mode": "completion", "prompt": text, "messages": (), **_WITHOUT_PROMPT}
        return _settings(request, model, stop).model_copy(update=update)
    update = {"mode": "chat", "messages": (_system(text, model),), "prompt": "", **_WITHOUT_PROMPT}
    return _settings(request, model).model_copy(update=update)


def without_memory(request: ChatRequest, model: ChatModel) -> tuple[ChatRequest, ChatModel]:
    """A request as its model's workers take it: that to a character has the prefix before the client's own text."""
    if model.character is None or model.base is None:
        return request, model
    character, speaker = model.character, speaker_name(request.speaker)
    text = prefix(character, speaker)
    if request.mode == "completion":
        field = "memory" if request.overflow == "drop_front" else "prompt"
        update = {field: f"{text}\n{getattr(request, field)}"}
        return _settings(request, model).model_copy(update=update), model.base
    if character.prompt_format == "plain" and not request.tools:
        stop = (f"\n{speaker or 'User'}:",)
        update = {"mode": "completion", "prompt": _as_lines(request, character, text, speaker), "messages": ()}
        return _settings(request, model, stop).model_copy(update=update), model.base
    messages = request.messages
    if messages and messages[0].role == "system":
        # Many templates take one message of the system at most.
        text, messages = f"{text}\n\n{messages[0].content}", messages[1:]
    update = {"messages": (_system(text, model), *messages)}
    return _settings(request, model).model_copy(update=update), model.base


def _as_lines(request: ChatRequest, character: Character, text: str, speaker: str) -> str:
    lines = [text]
    for message in request.messages:
        match message.role:
            case "user":
                lines.append(f"{speaker_name(message.name) or speaker or 'User'}: {message.content}")
            case "assistant":
                lines.append(f"{character.display_name}: {message.content}")
            case _:
                lines.append(message.content)
    return "\n".join((*lines, f"{character.display_name}:"))


def _settings(request: ChatRequest, model: ChatModel, stop: tuple[str, ...] = ()) -> ChatRequest:
    """The request under the name of the character's model, with the character's settings where the client has none."""
    character = _character(model)
    asked = request.sampling
    given = {name: getattr(asked, name) for name in asked.model_fields_set if getattr(asked, name) != _DEFAULTS[name]}
    stops = tuple(dict.fromkeys((*character.sampling.stop, *asked.stop, *stop)))
    update: dict[str, object] = {
        "model": model.served_name,
        "sampling": character.sampling.model_copy(update={**given, "stop": stops}),
        "speaker": "",
        "message_id": "",
    }
    form = _prompt_format(model)
    if form != "plain" and (character.prompt_format or form != "own"):
        update["prompt_format"] = form
    return request.model_copy(update=update)


def _prompt_format(model: ChatModel) -> CharacterPromptFormat:
    return _character(model).prompt_format or model.prompt_format


def _system(text: str, model: ChatModel) -> ChatMessage:
    # Of all forms this one alone begins lines with names.
    name = _character(model).display_name if _prompt_format(model) == "pygmalion" else None
    return ChatMessage(role="system", content=text, name=name)


def _character(model: ChatModel) -> Character:
    assert model.character is not None
    return model.character
