"""Character cards are read and written again without a loss, and hostile ones are refused within bounds."""

import base64
import json
import zlib
from typing import Any

import pytest

from callboard_admin.character_cards import Card, card_file, card_of, character_of, read_card, slug
from callboard_admin.png_chunks import chunks
from callboard_contracts.characters import MAX_AVATAR_BYTES, MAX_CARD_BYTES, Character
from callboard_contracts.errors import CallboardError, ErrorCode
from tests.support.characters import V1, V2, V3, card_text, chunk, picture

pytestmark = pytest.mark.unit

CARDS = pytest.mark.parametrize("raw", [V1, V2, V3], ids=["v1", "v2", "v3"])


def as_json(raw: Any) -> bytes:
    return json.dumps(raw).encode()


@CARDS
def test_card_comes_out_of_json_and_png_as_it_went_in(raw: dict[str, Any]) -> None:
    keyword = b"ccv3" if raw is V3 else b"chara"
    for data in (as_json(raw), b"\xef\xbb\xbf" + as_json(raw), picture(card_text(raw, keyword))):
        card = read_card(data)
        exported = card_of(character_of(card), card)
        assert json.loads(card_file(exported, "json")) == raw
        if card.avatar is not None:
            again = read_card(card_file(exported, "png"))
            assert (again.raw, again.avatar) == (raw, card.avatar)


@CARDS
def test_card_becomes_a_character(raw: dict[str, Any]) -> None:
    character = character_of(read_card(as_json(raw)))
    assert character.name == "mira-the-miller"
    assert character.display_name == ("Mira" if raw is V3 else "Mira the Miller")
    assert character.desc == raw.get("data", raw)["description"]
    assert character.greetings[0] == "Hm? {{user}}!"
    assert "Personality of {{char}}: gruff" in character.prompt
    assert "Scenario: In <USER>'s village." in character.prompt
    assert character.prompt.startswith("Write the next reply" if raw is V1 else "Write as {{char}}. Write the next")
    assert "Best at low temperature" not in character.prompt


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_every_kind_of_text_is_read(kind: bytes) -> None:
    assert read_card(picture(card_text(V2, b"Chara", kind))).raw == V2


def test_better_version_of_two_is_read_and_both_are_written() -> None:
    card = read_card(picture(card_text(V2), card_text(V3, b"ccv3")))
    assert (card.version, card.raw) == ("v3", V3)
    written = card_file(card, "png")
    names = [one.data.partition(b"\0")[0] for one in chunks(written) if one.kind == b"tEXt"]
    assert names == [b"chara", b"ccv3"]


def test_picture_is_kept_without_its_texts_and_only_up_to_a_size() -> None:
    extra = chunk(b"tEXt", b"Software\0secret")
    card = read_card(picture(card_text(V2), extra))
    assert card.avatar == picture()
    noise = bytes(n * 37 % 251 for n in range(MAX_AVATAR_BYTES + 10))
    large = read_card(picture(card_text(V2), chunk(b"faKe", noise)))
    assert (large.avatar, large.avatar_dropped) == (None, True)


def test_what_was_changed_since_the_import_is_in_the_export() -> None:
    card = read_card(as_json(V2))
    character = character_of(card).model_copy(
        update={"desc": "Bakes.", "greetings": ("Oh?",), "model": "owl", "words": {"Ada": "Ay-da"}, "prompt": "Be."}
    )
    exported = card_of(character, card)
    assert exported.data["description"] == "Bakes."
    assert (exported.data["first_mes"], exported.data["alternate_greetings"]) == ("Oh?", [])
    assert exported.data["extensions"]["depth_prompt"] == {"depth": 4}
    assert character_of(exported) == character
    assert card.raw == V2


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_character_without_a_card_is_exported_and_read_again(version: Any) -> None:
    character = Character(name="mo", display_name="Mo", desc="miller", location="mill", voice="ann", greetings=("Hm",))
    exported = card_of(character, None, version)
    assert exported.version == version
    again = character_of(Card(json.loads(exported.text()), version), "mo")
    kept = {"desc", "greetings", "display_name"} | (set() if version == "v1" else {"location", "voice", "prompt"})
    assert {field: getattr(again, field) for field in kept} == {field: getattr(character, field) for field in kept}


@pytest.mark.parametrize(("text", "name"), [("Mira the Miller", "mira-the-miller"), ("Élodie!", "elodie"), ("7", "7")])
def test_name_is_made_of_the_cards_own(text: str, name: str) -> None:
    assert slug(text) == name


def test_name_without_letters_has_to_be_given() -> None:
    card = read_card(as_json({**V1, "name": "日本"}))
    with pytest.raises(CallboardError) as caught:
        character_of(card)
    assert caught.value.info.param == "name"
    assert character_of(card, "nihon").display_name == "日本"


def bomb(kind: bytes) -> bytes:
    """A chunk that becomes a thousand times as large."""
    text = zlib.compress(b"A" * 64 * 1024 * 1024)
    rest = b"\0" + text if kind == b"zTXt" else b"\1\0\0\0" + text
    return chunk(kind, b"chara\0" + rest)


whole = picture(card_text(V2))
HOSTILE: dict[str, tuple[bytes, ErrorCode]] = {
    "empty": (b"", ErrorCode.INVALID_REQUEST),
    "no json": (b"{", ErrorCode.INVALID_REQUEST),
    "not utf-8": (b'{"name": "\xff"}', ErrorCode.INVALID_REQUEST),
    "a list": (b"[]", ErrorCode.INVALID_REQUEST),
    "another json": (b'{"hello": 1}', ErrorCode.INVALID_REQUEST),
    "data missing": (as_json({**V2, "data": None}), ErrorCode.INVALID_REQUEST),
    "deep": (b'{"name":"x","description":"","a":' + b"[" * 100 + b"]" * 100 + b"}", ErrorCode.INVALID_REQUEST),
    "very deep": (b"[" * 200_000, ErrorCode.INVALID_REQUEST),
    "no number": (b'{"name":"x","description":"","a":NaN}', ErrorCode.INVALID_REQUEST),
    "endless number": (b'{"name":"x","description":"","a":1e999}', ErrorCode.INVALID_REQUEST),
    "long number": (b'{"name":"x","description":"","a":' + b"9" * 9000 + b"}", ErrorCode.INVALID_REQUEST),
    "large": (as_json({**V1, "scenario": "x" * MAX_CARD_BYTES}), ErrorCode.BODY_TOO_LARGE),
    "field of another type": (as_json({**V1, "first_mes": 7}), ErrorCode.INVALID_REQUEST),
    "field too long": (as_json({**V1, "description": "x" * 70_000}), ErrorCode.INVALID_REQUEST),
    "foreign settings": (
        as_json({**V2, "data": {**V2["data"], "extensions": {"callboard": {"memory_messages": 10**9}}}}),
        ErrorCode.INVALID_REQUEST,
    ),
    "no card": (picture(), ErrorCode.INVALID_REQUEST),
    "cut off": (whole[:-20], ErrorCode.INVALID_REQUEST),
    "cut off in a size": (whole[:10], ErrorCode.INVALID_REQUEST),
    "size over the end": (whole[:8] + b"\x7f\xff\xff\xff" + whole[12:], ErrorCode.INVALID_REQUEST),
    "wrong sum": (whole.replace(b"IDAT", b"IDAX"), ErrorCode.INVALID_REQUEST),
    "no header": (whole[:8] + chunk(b"IEND", b""), ErrorCode.INVALID_REQUEST),
    "no base64": (picture(chunk(b"tEXt", b"chara\0!!!")), ErrorCode.INVALID_REQUEST),
    "not compressed": (picture(chunk(b"zTXt", b"chara\0\0nothing")), ErrorCode.INVALID_REQUEST),
    "bomb": (picture(bomb(b"zTXt")), ErrorCode.BODY_TOO_LARGE),
    "other bomb": (picture(bomb(b"iTXt")), ErrorCode.BODY_TOO_LARGE),
    "card too large in a picture": (
        picture(chunk(b"tEXt", b"chara\0" + base64.b64encode(b" " * (MAX_CARD_BYTES + 9)))),
        ErrorCode.BODY_TOO_LARGE,
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_card_is_refused(case: str) -> None:
    data, code = HOSTILE[case]
    with pytest.raises(CallboardError) as caught:
        character_of(read_card(data))
    assert caught.value.info.code is code


def test_halves_of_characters_and_nulls_do_not_pass() -> None:
    card = read_card(b'{"name":"x\\u0000","description":"a\\ud800b","first_mes":""}')
    character = character_of(card)
    assert (character.display_name, character.desc) == ("x", "a?b")
    assert character.compact()
    assert json.loads(card_file(card_of(character, card), "json")) == card.raw
