"""What the benchmarks make of figures: a page whose sections are measured apart, and what is said of other gateways."""

import pytest

from tests.benchmarks.compared.chat import CALLBOARD, ENGINE, SYNCED, Side, Summary, summary_of, verdicts
from tests.benchmarks.large import gives_way
from tests.benchmarks.load import Target, Timing
from tests.benchmarks.page import page_of, sections_of

pytestmark = [pytest.mark.unit, pytest.mark.timeout(30)]

PAGE = "# Benchmarks\n\nWords.\n\n## Chat\n\nA table.\n\n### Deeper\n\nMore.\n\n## Speech\n\nSounds.\n"


def test_a_page_is_taken_apart_and_put_together_again() -> None:
    head, sections = sections_of(PAGE)
    assert (head, list(sections)) == ("# Benchmarks\n\nWords.", ["Chat", "Speech"])
    assert page_of(head, sections, ["Chat", "Speech"]) == PAGE


def test_a_section_measured_anew_leaves_the_others_and_stands_in_its_place() -> None:
    head, sections = sections_of(PAGE)
    page = page_of(head, sections | {"Quota": "Holds.", "Chat": "Anew."}, ["Chat", "Quota", "Speech"])
    assert page == "# Benchmarks\n\nWords.\n\n## Chat\n\nAnew.\n\n## Quota\n\nHolds.\n\n## Speech\n\nSounds.\n"


def test_a_side_is_measured_beside_the_engine_itself() -> None:
    engine, side = (Side(name, Target(1, "mock", "none")) for name in (ENGINE, CALLBOARD))
    engine.first_ms, side.first_ms = [0.1] * 10, [1.1] * 9 + [5.1]
    for one in (engine, side):
        one.flooded([Timing(0, 1, 2_000_000_000), Timing(0, 1, 1_000_000_000)], used_s=0.5)
    found = summary_of(side, engine)
    assert (found.added_p50_ms, found.added_p99_ms) == (pytest.approx(1), pytest.approx(5))
    assert (found.replies_per_s, found.cpu_ms) == (1, 250)


def test_losses_and_wins_are_both_said() -> None:
    own = Summary(CALLBOARD, 1.0, 2.0, 1000, 1.0, 300)
    quick = Summary("Quick", 0.25, 4.0, 2000, 0.5, 30)
    (line,) = verdicts([Summary(ENGINE, 0, 0, 9, 0, 0), own, Summary(SYNCED, 2, 4, 5, 2, 300), quick])
    assert line == (
        "- Beside Quick, Callboard is behind in the added time (4.0 times), replies a second (2.0 times), "
        "processor time (2.0 times), memory (10.0 times) and ahead in its p99 (2.0 times)."
    )


def test_what_is_used_most_gives_way_first() -> None:
    said = gives_way({"a core": 0.4, "slots": 0.98})
    assert said == "Used of what there is: slots 98%, a core 40%. The first to give way: slots."
