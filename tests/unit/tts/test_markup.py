"""What of a written text is spoken."""

import pytest

from callboard_tts.domain.markup import BlockFilter, is_speakable, without_markup, without_speaker
from callboard_tts.domain.pieces import split_text

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("It is **very** *nice* and ~~not~~ __so__ bad", "It is very nice and not so bad"),
        ("这是**重点**内容", "这是重点内容"),
        ('See [the sea](https://sea.example/a_(b) "title") now', "See the sea now"),
        ("![a gull](gull.png) flies", "a gull flies"),
        ("Visit https://a.example/b?c=d&e=f#g. Then come.", "Visit. Then come."),
        ("看https://a.example/b看看", "看看看"),
        ("www.sea.example is a site", "is a site"),
        ("I’m ‘here’ and that’s “it”", "I'm 'here' and that's “it”"),
        ("Hello 😀 there 👨‍👩‍👧 you 👍🏽!", "Hello there you!"),
        (
            "Press 1️⃣ in 🇩🇪 or 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f now ✓ ©",
            "Press 1 in or now ©",
        ),
        ("Run `make up` now", "Run make up now"),
        ('<b>Bold</b> and <a href="x">link</a>', "Bold and link"),
        ("if a < b and c > d", "if a < b and c > d"),
        ("5 * 3 and snake_case_name", "5 * 3 and snake_case_name"),
        ("# Heading\nText under it", "Heading. Text under it"),
        ("- one\n- two\n* three", "one. two. three"),
        ("> quoted\n> lines", "quoted lines"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a, b. 1, 2."),
        ("above\n\n---\n\nbelow", "above. below"),
        ("Roses are red\nViolets are blue", "Roses are red, Violets are blue"),
        ("a line that\nwraps", "a line that wraps"),
        ("日本語の　テキスト。", "日本語の テキスト。"),
        ("A→B", "A B"),
        ("\\*not emphasis\\* 1\\. x", "not emphasis 1. x"),
    ],
)
def test_markup_is_taken_out(written: str, spoken: str) -> None:
    assert without_markup(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Anna: Hello you", "Hello you"),
        ("**Old Tom:** Ahoy", "Ahoy"),
        ("Note: the door is locked", "Note: the door is locked"),
        ("there are two: one and two", "there are two: one and two"),
        ("10:30 is late", "10:30 is late"),
        ("Anna:", "Anna:"),
    ],
)
def test_only_a_speakers_name_is_dropped(written: str, spoken: str) -> None:
    assert without_speaker(written) == spoken


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_reasoning_and_code_are_dropped_for_any_chunks(size: int) -> None:
    text = "<think>I must not say this.</think>Hello. ```python\nprint(1)\n``` Bye < now ~~x~~ <THINK>no</THINK>!"
    blocks = BlockFilter()
    out = "".join(blocks.feed(text[at : at + size]) for at in range(0, len(text), size)) + blocks.finish()
    assert out.split() == ["Hello.", "Bye", "<", "now", "~~x~~", "!"]


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Hiii~~~ I missed you.\n~~~\nWhere were you?", "Hiii~~~ I missed you. ~~~ Where were you?"),
        ("Use ``` to fence. Then go on.", "Use ``` to fence. Then go on."),
        ("One ```two``` three", "One ```two``` three"),
        ("See:\n- ```sh\nls\n```\nDone", "See: - Done"),
        ("See ```sh\nls\n``` done", "See done"),
        ("The end ```sh", "The end ```sh"),
    ],
)
def test_only_a_fence_of_a_block_opens_one(written: str, spoken: str, size: int) -> None:
    blocks = BlockFilter()
    out = "".join(blocks.feed(written[at : at + size]) for at in range(0, len(written), size)) + blocks.finish()
    assert " ".join(out.split()) == spoken


def test_reasoning_that_never_ends_is_never_spoken() -> None:
    blocks = BlockFilter()
    assert (blocks.feed("Hello <think>secret") + blocks.finish()).strip() == "Hello"


@pytest.mark.parametrize(
    ("text", "speakable"), [("🙂", False), ("...", False), ("", False), ("a", True), ("你", True), ("7", True)]
)
def test_speakable_text_has_a_letter_or_a_digit(text: str, *, speakable: bool) -> None:
    assert is_speakable(text) is speakable


def test_text_of_code_alone_has_no_pieces() -> None:
    assert split_text("```\nx = 1\n```", "en-us") == []


def test_piece_of_emoji_alone_takes_no_number() -> None:
    text = (
        "The first sentence stands here for everyone. 😀 😀 😀.\n\nThe second sentence stands there for nobody at all."
    )
    assert [piece.index for piece in split_text(text, "en-us")] == [0, 1]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Plan.</think>Yes.", "Yes."),
        ("Plan.</THINKING>\n\nYes.", "Yes."),
        ("<think>Plan.</think>Yes.", "Yes."),
        ("Plan.</think>More.</think>Yes.", "Yes."),
        ("Close it with `</think>` here.", "Close it with `</think>` here."),
        ("Plan.</think>", ""),
    ],
)
def test_reasoning_without_its_beginning_is_dropped(text: str, spoken: str) -> None:
    blocks = BlockFilter()
    assert (blocks.feed(text) + blocks.finish()).strip() == spoken


def test_end_of_reasoning_in_many_tokens_tells_to_forget_what_was_returned() -> None:
    returned: list[str] = []
    blocks = BlockFilter(returned.clear)
    for character in "Plan it first.</think>The answer.":
        returned.append(blocks.feed(character))
    assert "".join([*returned, blocks.finish()]).strip() == "The answer."
