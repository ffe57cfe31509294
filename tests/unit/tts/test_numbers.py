"""How numbers and abbreviations are written out."""

import pytest

from callboard_tts.domain.normalization import normalize_text
from callboard_tts.domain.numbers import ordinal, year

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("$1,234.56", "1234 dollars and 56 cents"),
        ("$1 and €1 and £20.50", "1 dollar and 1 euro and 20 pounds and 50 pence"),
        ("$5 million, $0.99, ¥500.", "5 million dollars, 99 cents, 500 yen."),
        ("1,500 people", "1500 people"),
        ("3.14%", "3 point 1 4 percent"),
        ("in 1984, since 2005", "in nineteen eighty-four, since two thousand five"),
        ("the 1990s", "the nineteen nineties"),
        ("the 1910s and the 2000s", "the nineteen tens and the two thousands"),
        ("2024-05-01", "May first, twenty twenty-four"),
        ("Jan. 5, 2021 and May 12th", "January fifth, twenty twenty-one and May twelfth"),
        ("at 10:30 pm.", "at 10 30 P M."),
        ("at 9:05 a.m. we left at 10:00", "at 9 oh 5 A M we left at 10 o'clock"),
        ("Dr. Smith and Mr. X", "Doctor Smith and Mister X"),
        ("e.g. this, i.e. that, etc.", "for example, this, that is, that, et cetera."),
        ("No. 7 and #4", "number 7 and number 4"),
        ("5-10 apples", "5 to 10 apples"),
        ("555-123-4567", "five five five, one two three, four five six seven"),
        ("5 km/h, 72°F, 3kg", "5 kilometers per hour, 72 degrees Fahrenheit, 3 kilograms"),
        ("J. R. R. Tolkien", "J R R Tolkien"),
        ("Plan A. Then plan B.", "Plan A. Then plan B."),
        ("the U.S. Army", "the U S Army"),
        ("R&B, 2+2", "R and B, 2 plus 2"),
        ("version 1.2.3", "version 1 point 2 point 3"),
        ("nothing special here", "nothing special here"),
    ],
)
def test_english_is_written_out(written: str, spoken: str) -> None:
    assert normalize_text(written, "en-us") == spoken


def test_numbers_of_other_languages_hold_no_marks() -> None:
    assert normalize_text("1.234,56 euros", "es") == "1234 coma 5 6 euros"
    assert normalize_text("价格是3.5元", "zh") == "价格是三点五元"
    assert normalize_text("anything 3.5", "") == "anything 3.5"


def test_ordinals_and_years() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 5, 8, 9, 12, 20, 21, 30)] == (
        ["first", "second", "third", "fifth", "eighth", "ninth", "twelfth", "twentieth", "twenty-first", "thirtieth"]
    )
    assert [year(n) for n in (1066, 1900, 1907, 2000, 2001, 2010)] == [
        "ten sixty-six",
        "nineteen hundred",
        "nineteen oh seven",
        "two thousand",
        "two thousand one",
        "twenty ten",
    ]
