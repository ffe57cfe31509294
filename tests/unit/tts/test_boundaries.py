"""Where sentences end: the places of the bars, and nowhere else."""

import pytest

from callboard_tts.domain.boundaries import Pause, boundary, without_inner_stops
from callboard_tts.domain.pieces import PieceStream, split_text

pytestmark = pytest.mark.unit

MARKED = [
    "The meeting is on Feb. 10 in Boston.| It is long.|",
    "It was in Feb.| The snow was deep.|",
    "He came on Mon. Feb. 5 and left.|",
    "We sat.| Sun was shining.|",
    "The former Gov. Adams met Sen. Smith and Rep. Jones.|",
    "See p. 12 and pp. 5 to 9.| Then stop.|",
    "I said no.| Then he left.|",
    "The answer is in No. 5 of the list.|",
    "See Vol. II and ch. IV of it.|",
    "He joined the U.S. Army.| He liked it.|",
    "He lives in the U.S.| He likes it.|",
    "J. R. R. Tolkien wrote it.|",
    "So did I.| Anna did not.|",
    "We go for Plan B.| The first one failed.|",
    "Some animals, e.g. cats, i.e. pets, live here.|",
    "Bread, milk, etc. and water.|",
    "Bread, milk, etc.| Water is extra.|",
    "It is red vs. blue tonight.|",
    "She came at 5 p.m. and left.|",
    "She came at 5 p.m.| Anna was late.|",
    "It starts at 5 p.m. EST tonight.|",
    "Martin Luther King Jr. Day is today.|",
    "He works for Acme Inc.| They pay well.|",
    "She has a Ph.D. in physics.|",
    "It costs 3.50 today.| It was 2.|",
    "Version 1.2.3 is out.|",
    "Well... maybe so.|",
    "So...| Then it rained.|",
    '"It rained."| Then the sun came.|',
    "(It rained.)| Then the sun came.|",
    "“Is it?”| No.|",
    "1. Eggs\n2. Milk",
    "El Sr. García y la Sra. López vinieron.|",
    "M. Dupont et Mme. Durand arrivent.|",
    "Les fruits, p. ex. Pommes et poires.|",
    "Il Dott. Rossi e il Sig. Bianchi sono qui.|",
    "今天很好。|我们走吧！|好吗？|",
    "「はい。」|と言った。|",
    "यह अच्छा है।| चलो।|",
]


@pytest.mark.parametrize("marked", MARKED)
def test_sentences_end_at_the_bars(marked: str) -> None:
    text = marked.replace("|", "")
    ends = [at + 1 for at in range(len(text)) if boundary(text, at, final=True) is Pause.SENTENCE and text[at] != "\n"]
    begin, wanted = 0, list[int]()
    for part in marked.split("|")[:-1]:
        begin += len(part)
        wanted.append(begin)
    assert ends == wanted


@pytest.mark.parametrize("marked", MARKED)
def test_ends_are_the_same_while_the_text_arrives(marked: str) -> None:
    text = marked.replace("|", "")
    stream = PieceStream("en-us")
    pieces = [piece for character in text for piece in stream.feed(character)]
    assert pieces + stream.finish() == split_text(text, "en-us")


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("He met Sr. García.", "He met Sr García."),
        ("Well... maybe. So... Then", "Well… maybe. So. Then"),
        ("See p. 5. Then stop.", "See p 5. Then stop."),
        ("EE.UU. es grande.", "EE UU es grande."),
        ('He said "no." Then he left.', 'He said "no." Then he left.'),
        ("What?! Yes.", "What?! Yes."),
        ("example.com is 3.5 years old.", "example.com is 3.5 years old."),
    ],
)
def test_stops_of_abbreviations_are_not_spoken(text: str, spoken: str) -> None:
    assert without_inner_stops(text) == spoken
