"""Tags in raw prompts become what a prompt format writes around turns."""

import pytest

from callboard_chat.domain.turn_tags import count, last, replaced, replaced_stops
from callboard_contracts.tokens import TurnTexts

pytestmark = pytest.mark.unit

TEXTS = TurnTexts(
    system_start="<S>",
    system_end="</S>",
    user_start="<U>\n",
    user_end="</U>",
    assistant_start="<A>\n",
    assistant_end="</A>",
    assistant_gen="<G>\n",
)


@pytest.mark.parametrize(
    ("memory", "prompt", "expected"),
    [
        ("", "plain {{[NOTHING]}} text", ("", "plain {{[NOTHING]}} text")),
        ("", "{{[INPUT]}}Hi{{[OUTPUT]}}", ("", "<U>\nHi</U><G>\n")),
        (
            "",
            "{{[INPUT]}}a{{[OUTPUT]}}b{{[INPUT]}}c{{[OUTPUT]}}",
            ("", "<U>\na</U><A>\nb</A><U>\nc</U><G>\n"),
        ),
        (
            "",
            "{{[SYSTEM]}}s{{[SYSTEM_END]}}{{[INPUT]}}a{{[INPUT_END]}}{{[OUTPUT]}}b{{[OUTPUT_END]}}{{[INPUT]}}c"
            "{{[INPUT_END]}}{{[OUTPUT]}}",
            ("", "<S>s</S><U>\na</U><A>\nb</A><U>\nc</U><G>\n"),
        ),
        ("{{[SYSTEM]}}s", "{{[INPUT]}}a{{[OUTPUT]}}", ("<S>s", "<U>\na</U><G>\n")),
        # The first turn of a user may stand in memory, and so may the opening of the reply.
        ("{{[INPUT]}}a{{[OUTPUT]}}", "{{[INPUT]}}b", ("<U>\na</U><G>\n", "</A><U>\nb")),
        # A tag that only arises when another is replaced is none.
        ("", "{{[INP{{[INPUT]}}UT]}}", ("", "{{[INP<U>\nUT]}}")),
        ("{{[INP", "UT]}}x", ("{{[INP", "UT]}}x")),
    ],
)
def test_tags_become_the_formats_texts(memory: str, prompt: str, expected: tuple[str, str]) -> None:
    assert replaced(memory, prompt, TEXTS) == expected


def test_stop_sequences_are_texts_without_blanks_and_never_empty() -> None:
    stops = ("{{[INPUT]}}", "x", "{{[OUTPUT]}}", "{{[INPUT_END]}}", "", "{{[INPUT]}}", "a {{[INPUT]}}")
    assert replaced_stops(stops, TEXTS) == ("<U>", "x", "<A>", "</U>", "a {{[INPUT]}}")
    assert replaced_stops(("{{[INPUT_END]}}", "{{[OUTPUT]}}"), TurnTexts()) == ()


def test_hundred_thousand_tags_are_replaced_in_one_pass() -> None:
    memory, prompt = replaced("", "{{[INPUT]}}{{[OUTPUT]}}" * 50_000, TEXTS)
    assert memory == ""
    assert prompt.count("<U>") == 50_000
    assert (prompt.count("<A>"), prompt.count("<G>")) == (49_999, 1)


def test_the_last_tags_of_a_text_are_kept() -> None:
    text = "a{{[INPUT]}}b{{[OUTPUT]}}c{{[INPUT]}}d"
    assert count(text) == 3
    assert last(text, 3) == text
    assert last(text, 2) == "{{[OUTPUT]}}c{{[INPUT]}}d"
