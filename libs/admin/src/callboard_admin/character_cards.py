"""Character cards of versions 1, 2 and 3, in JSON and PNG files: read as characters, and written from them.

A card's own data is kept as it was read, also what is not used here, and given out again. What a character has beyond a
card stands in the card's `extensions` under `callboard`.
"""

import base64
import binascii
import copy
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from callboard_admin.png_chunks import SIGNATURE, bad_card, chunks, png, texts, too_large
from callboard_contracts.characters import MAX_AVATAR_BYTES, MAX_CARD_BYTES, Character
from callboard_contracts.errors import CallboardError, ErrorCode

CardVersion = Literal["v1", "v2", "v3"]
CardFormat = Literal["json", "png"]
CONTENT_TYPES: dict[CardFormat, str] = {"json": "application/json", "png": "image/png"}
KEYWORDS: dict[str, CardVersion] = {"ccv3": "v3", "chara": "v2"}
"""The texts of a PNG file that hold a card, the better one first."""
MAX_DEPTH = 64
SPECS: dict[CardVersion, tuple[str, str]] = {"v2": ("chara_card_v2", "2.0"), "v3": ("chara_card_v3", "3.0")}
CARD_PROMPT = "Write the next reply of {{char}} in this conversation between {{char}} and {{user}}."
"""The first line of the prefix where a card has no system prompt of its own."""
EXTENSION = "callboard"
SETTINGS = (
    *("prompt", "location", "model", "fallback_model", "voice", "words", "memory_messages", "prompt_format"),
    *("sampling", "max_output_tokens"),
)
"""What a character has that a card has no place for."""
_TEXTS = ("description", "personality", "scenario", "first_mes", "mes_example")
_V2_TEXTS = (*_TEXTS, "creator_notes", "system_prompt", "post_history_instructions", "creator", "character_version")
_ORIGINAL = re.compile(r"\{\{original\}\}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Card:
    """A card as it was read: its JSON, its version, and the picture that it came in, where that is small enough."""

    raw: dict[str, Any]
    version: CardVersion
    avatar: bytes | None = None
    avatar_dropped: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """Where the fields are."""
        return self.raw if self.version == "v1" else self.raw["data"]

    def text(self) -> str:
        """The card as JSON."""
        return json.dumps(self.raw, ensure_ascii=True, separators=(",", ":"))


def read_card(data: bytes) -> Card:
    """Reads a card from the bytes of a JSON or PNG file.

    Raises:
        CallboardError: `invalid_request` for what is no card or is damaged, `body_too_large`.
    """
    if not data.startswith(SIGNATURE):
        return parse_card(data)
    parts = list(chunks(data))
    # Base64 makes four bytes of three.
    found = texts(parts, KEYWORDS, MAX_CARD_BYTES * 4 // 3 + 4)
    text = next((found[name] for name in KEYWORDS if name in found), None)
    if text is None:
        raise bad_card("The picture has no character in it.")
    if not text.lstrip().startswith(b"{"):
        try:
            text = base64.b64decode(b"".join(text.split()), validate=True)
        except binascii.Error:
            raise bad_card("The character in the picture is not valid base64.") from None
    card, avatar = parse_card(text), png(parts)
    kept = len(avatar) <= MAX_AVATAR_BYTES
    return Card(card.raw, card.version, avatar if kept else None, avatar_dropped=not kept)


def parse_card(text: bytes) -> Card:
    """Reads a card's JSON; raises as `read_card`."""
    if len(text) > MAX_CARD_BYTES:
        raise too_large(MAX_CARD_BYTES)
    try:
        raw = json.loads(text.decode("utf-8-sig"), parse_constant=_refuse)
        json.dumps(raw, allow_nan=False)
    except (ValueError, RecursionError):
        raise bad_card("The card is not valid JSON.") from None
    if not isinstance(raw, dict):
        raise bad_card("The card is not a JSON object.")
    _check_depth(raw)
    versions: list[CardVersion] = [version for version, (spec, _number) in SPECS.items() if raw.get("spec") == spec]
    version = versions[0] if versions else None
    if version is not None and not isinstance(raw.get("data"), dict):
        raise bad_card("The card has no object 'data'.")
    if version is None and not (isinstance(raw.get("name"), str) and any(field in raw for field in _TEXTS)):
        raise bad_card("The file is not a character card of version 1, 2 or 3.")
    return Card(raw, version or "v1")


def character_of(card: Card, name: str | None = None) -> Character:
    """A card as a character; `name` is what it is called, left out, made of the card's own.

    Raises:
        CallboardError: a field has the wrong type or is too long, or the card's name makes no name.
    """
    data = card.data
    display_name = _text(data, "nickname") or _text(data, "name")
    fields: dict[str, Any] = {
        "name": name or slug(_text(data, "name")),
        "display_name": display_name,
        "prompt": _prompt(data),
        "desc": _text(data, "description"),
        "example_dialogue": _text(data, "mes_example"),
        "greetings": [one for one in (_text(data, "first_mes"), *_greetings(data)) if one],
    }
    extensions = data.get("extensions")
    own = extensions.get(EXTENSION) if isinstance(extensions, dict) else None
    if isinstance(own, dict):
        fields |= {field: own[field] for field in SETTINGS if field in own}
    return character_from(fields)


def character_from(fields: dict[str, Any]) -> Character:
    """A character of some fields; raises CallboardError with the field at fault."""
    unknown = next((field for field in fields if field not in Character.model_fields), None)
    if unknown is not None:
        raise CallboardError(ErrorCode.INVALID_REQUEST, f"There is no setting '{unknown}'.", param=unknown)
    try:
        return Character.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(map(str, first["loc"])) or "character"
        message = f"Invalid value for '{param}': {first['msg']}."
        raise CallboardError(ErrorCode.INVALID_REQUEST, message, param=param) from None


def card_of(character: Character, imported: Card | None, version: CardVersion | None = None) -> Card:
    """A character as a card: the imported one with what has changed since, or a new one; of its own version or another.

    A card that was imported and not changed comes out as it went in.
    """
    source = imported or _empty_card(character)
    raw = copy.deepcopy(source.raw)
    card = _converted(Card(raw, source.version, source.avatar), version or source.version)
    before, data = character_of(source, character.name), card.data
    if character.display_name != before.display_name:
        data["nickname" if _text(data, "nickname") else "name"] = character.display_name
    if character.desc != before.desc:
        data["description"] = character.desc
    if character.example_dialogue != before.example_dialogue:
        data["mes_example"] = character.example_dialogue
    if character.greetings != before.greetings:
        data["first_mes"] = next(iter(character.greetings), "")
        if card.version != "v1":
            data["alternate_greetings"] = list(character.greetings[1:])
    ours, theirs = character.model_dump(mode="json"), before.model_dump(mode="json")
    changed = {field: ours[field] for field in SETTINGS if ours[field] != theirs[field]}
    if changed:
        extensions = data.setdefault("extensions", {})
        extensions[EXTENSION] = {**(extensions.get(EXTENSION) or {}), **changed}
    return card


def card_file(card: Card, form: CardFormat) -> bytes:
    """A card as a file; a PNG file of version 3 has the card for readers of version 2 too.

    Raises:
        CallboardError: the character has no picture.
    """
    if form == "json":
        return (json.dumps(card.raw, indent=2, ensure_ascii=True) + "\n").encode()
    if card.avatar is None:
        raise CallboardError(ErrorCode.NOT_FOUND, "The character has no picture; export it as JSON.", param="format")
    written = {"chara": card if card.version != "v3" else _converted(copy.deepcopy(card), "v2")}
    if card.version == "v3":
        written["ccv3"] = card
    added = {keyword: base64.b64encode(one.text().encode()) for keyword, one in written.items()}
    return png(chunks(card.avatar), added)


def slug(text: str) -> str:
    """The name of a character in an address, made of a name as people write it; raises CallboardError for none."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    found = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-")
    if not found:
        raise CallboardError(
            ErrorCode.INVALID_REQUEST, "The card's name has no letters that a name is made of; give one.", param="name"
        )
    return found


def _prompt(data: dict[str, Any]) -> str:
    """The text before the dialogue, as the fields of a card make it."""
    system = _text(data, "system_prompt")
    parts = [_ORIGINAL.sub(lambda _match: CARD_PROMPT, system) if system.strip() else CARD_PROMPT]
    if _text(data, "description").strip():
        parts.append("{desc}")
    for heading, field in (("Personality of {{char}}", "personality"), ("Scenario", "scenario")):
        if text := _text(data, field).strip():
            parts.append(f"{heading}: {text}")
    return "\n".join(parts)


def _greetings(data: dict[str, Any]) -> list[str]:
    found = data.get("alternate_greetings")
    if not isinstance(found, list):
        return []
    return [_clean(one) for one in found if isinstance(one, str)]


def _text(data: dict[str, Any], field: str) -> str:
    value = data.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CallboardError(ErrorCode.INVALID_REQUEST, f"'{field}' of the card must be a text.", param=field)
    return _clean(value)


def _clean(text: str) -> str:
    """A text without what no message can carry: half of a character, and the null character."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _empty_card(character: Character) -> Card:
    spec, number = SPECS["v2"]
    data = {"name": character.display_name, **_empty_data()}
    return Card({"spec": spec, "spec_version": number, "data": data}, "v2")


def _converted(card: Card, version: CardVersion) -> Card:
    if version == card.version:
        return card
    data = card.data
    if version == "v1":
        return Card({field: data.get(field, "") for field in ("name", *_TEXTS)}, "v1", card.avatar)
    if card.version == "v1":
        data = {**_empty_data(), **data}
    if version == "v3":
        data = {"group_only_greetings": [], **data}
    spec, number = SPECS[version]
    rest = {} if card.version == "v1" else card.raw
    return Card({**rest, "spec": spec, "spec_version": number, "data": data}, version, card.avatar)


def _empty_data() -> dict[str, Any]:
    return {**dict.fromkeys(_V2_TEXTS, ""), "alternate_greetings": [], "tags": [], "extensions": {}}


def _check_depth(raw: Any) -> None:
    level = [raw]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise bad_card(f"The card is nested more than {MAX_DEPTH} levels deep.")


def _refuse(constant: str) -> float:
    raise ValueError(constant)
