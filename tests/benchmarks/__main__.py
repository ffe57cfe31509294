"""Measures and prints the figures: `python -m tests.benchmarks [PART...] [--quick] [--write FILE]`."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, get_args

from tests.benchmarks import (
    chat_cost,
    conversations,
    holds,
    large,
    machine,
    prompt_cache,
    protocol_cost,
    quota_cost,
    recognition_cost,
    speech_cost,
    talk_cost,
    volunteer_cost,
)
from tests.benchmarks.compared import chat as compared_chat
from tests.benchmarks.compared import speech as compared_speech
from tests.benchmarks.figures import Figure, table
from tests.benchmarks.page import page_of, sections_of
from tests.support.nats_server import Sync

PAGE = Path("docs/benchmarks.md")
MACHINE = "The machine"
TITLES = {
    "chat": "Chat",
    "protocols": "Protocols",
    "cache": "Prompt cache",
    "conversations": "Conversations",
    "speech": "Speech",
    "recognition": "Speech to text",
    "talk": "Talk",
    "quota": "Quota",
    "holds": "Holds on a key with little left",
    "large": "Large",
    "volunteers": "Volunteers",
    "compare-chat": "Beside other gateways",
    "compare-speech": "Beside other servers of speech",
}
"""The section of each part."""
OTHERS = ("compare-chat", "compare-speech")
"""What needs packages that are no part of the environment, and is measured only when it is named."""
PARTS = tuple(part for part in TITLES if part not in OTHERS)
COMPARED = Path("build/compared")

INTRODUCTION = """\
# Benchmarks

`make bench` measures these figures and writes this page, `make compare` the sections that look beside Callboard. All
runs on one machine: the clients, the engines, nats-server and Callboard's own processes share its processor, and all
traffic goes over loopback. What is measured through Callboard and what is measured without it come from the same run.
"""

CHAT_NOTES = """\
The engine is a mock that streams 32 tokens in one write and costs almost nothing, so what is left is Callboard. There
is one edge, one chat worker with the `openai` backend and one quota process; the key and the client's address each
have a daily limit, so every request takes a hold of two counters and settles it. At concurrency 1, requests to the
engine and through Callboard alternate over kept-alive connections, 1,000 of each before each of the three loads; the
added time is the difference of the percentiles.
A reply is about fourteen steps from process to process, so the time of one request and answer over the bus alone, which
is four of them, says how fast the machine was during the run. nats-server has half of the cores, as `callboard up`
gives it.
"""

LAZY_NOTES = "With the bus writing to the disk as it does by default, and as cluster nodes do unless told otherwise:"

GROUPED_NOTES = """\
The same on one machine, as `callboard up` runs it: what anybody relies on is on the disk first, brought there by each
process, many messages at once:
"""

STRICT_NOTES = """\
The same with `sync_interval: always`, as a cluster's nodes do: every acknowledged message is on the disk first, eleven
for each reply, so these figures are those of the disk as much as of Callboard:
"""

STAGE_NOTES = """\
### Where the time goes

Seen from outside, by a listener on the bus with the clock of the clients, one request at a time. The listener itself
costs each request a little, so the sum is larger than the figure above.
"""

ONE_MACHINE, ALWAYS = "As `callboard up` runs it", "With `sync_interval: always`"
GROUPED_TIMES_LAZY = 1.5
SHARE_NOTES = "Processor time of each process for one streamed reply of 32 tokens, 16 at once:"


def main() -> int:
    """Measures what was asked for; exit code 1 when a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    choices = [*TITLES, "compare", []]
    parser.add_argument("parts", nargs="*", choices=choices, default=[], help="what to measure; default: Callboard")
    parser.add_argument(
        "--compared", type=Path, default=COMPARED, help=f"where scripts/compared put the others; default: {COMPARED}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples, for a look")
    parser.add_argument("--write", type=Path, help=f"the page to write; default: {PAGE} when all is measured")
    parser.add_argument("--update", action="store_true", help=f"put the sections that were measured into {PAGE}")
    arguments = parser.parse_args()
    asked = [one for part in arguments.parts for one in (OTHERS if part == "compare" else (part,))]
    parts = asked or list(PARTS)
    if set(parts) & set(OTHERS) and not arguments.compared.is_dir():
        parser.error(f"{arguments.compared} is missing; `scripts/compared {arguments.compared}` makes it")
    # The set's own connections come and go here, which is no news.
    logging.getLogger("callboard_kit").setLevel(logging.ERROR)
    today = f"Measured on {datetime.now(UTC):%Y-%m-%d}."
    sections = {MACHINE: "\n".join([today, "", *machine.description()])}
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder:
        for part in parts:
            lines = _measured_part(part, Path(folder), arguments.compared.absolute(), figures, quick=arguments.quick)
            sections[TITLES[part]] = "\n".join(lines).strip("\n")
    order = [MACHINE, *TITLES.values()]
    page = page_of(INTRODUCTION.strip(), sections, order)
    print(page)
    whole = parts == list(PARTS) and not arguments.quick
    if arguments.write:
        arguments.write.write_text(page, encoding="utf-8")
    elif whole or arguments.update:
        head, kept = sections_of(PAGE.read_text(encoding="utf-8"))
        if not whole:
            del sections[MACHINE]
            sections = {title: f"{today}\n\n{text}" for title, text in sections.items()}
        PAGE.write_text(page_of(INTRODUCTION.strip() if whole else head, kept | sections, order), encoding="utf-8")
    missed = [figure for figure in figures if figure.met is False]
    for figure in missed:
        sys.stderr.write(f"missed: {' '.join(figure.cells)}\n")
    return 1 if missed else 0


def _measured_part(part: str, folder: Path, compared: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    """The lines of a part's section; figures with bars are added to those given."""
    if part in _SECTIONS:
        return _SECTIONS[part](folder, figures, quick=quick)
    notes, measure = _COMPARISONS[part]
    return [notes, *measure(folder, compared, quick=quick)]


def _chat(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    effort = chat_cost.Effort(pairs=200, flood_s=3, staged=100) if quick else chat_cost.Effort()
    lazy, grouped, strict = (_measured(folder, effort, sync) for sync in get_args(Sync))
    beside = folder / "beside"
    beside.mkdir()
    times = chat_cost.synced_times_default(beside, effort)
    dearer = Figure("the p50, times that without, both in turn", times, "x", GROUPED_TIMES_LAZY)
    figures += [*lazy.figures, dearer]
    lines = [CHAT_NOTES, LAZY_NOTES, "", *table(lazy.figures), ""]
    lines += [GROUPED_NOTES, *table([*without_bars(grouped.figures), dearer]), ""]
    lines += [STRICT_NOTES, *table(without_bars(strict.figures)), ""]
    lines += [STAGE_NOTES, *lazy.stages, "", f"{ONE_MACHINE}:", "", *grouped.stages, ""]
    lines += [f"{ALWAYS}:", "", *strict.stages, ""]
    lines += [SHARE_NOTES, "", *lazy.shares, "", f"{ONE_MACHINE}:", "", *grouped.shares, ""]
    lines += [f"{ALWAYS}:", "", *strict.shares, ""]
    return lines


def without_bars(figures: Iterable[Figure]) -> list[Figure]:
    """The same figures, only told."""
    return [replace(figure, bar=None) for figure in figures]


def _measured(folder: Path, effort: chat_cost.Effort, sync: Sync) -> chat_cost.ChatCost:
    own = folder / sync
    own.mkdir()
    return chat_cost.measure(own, effort, sync)


def _speech(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    measured = speech_cost.measure(folder / "speech", quick=quick)
    if isinstance(measured, str):
        return [f"Not measured: {measured}."]
    figures += measured.figures
    return [speech_cost.NOTES, *table(measured.figures), ""]


def _recognition(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    measured = recognition_cost.measure(folder / "recognition", quick=quick)
    if isinstance(measured, str):
        return [f"Not measured: {measured}."]
    figures += measured.figures
    return [recognition_cost.NOTES, *table(measured.figures), ""]


def _talk(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    measured = talk_cost.measure(folder / "talk", quick=quick)
    if isinstance(measured, str):
        return [f"Not measured: {measured}."]
    figures += measured
    return [talk_cost.NOTES, *table(measured), ""]


def _quota(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    effort = quota_cost.QUICK if quick else quota_cost.Effort()
    lazy = quota_cost.measure(folder / "quota-default", effort, "default")
    figures += lazy.figures
    lines = [quota_cost.NOTES, LAZY_NOTES, "", *table(lazy.figures), ""]
    others: dict[Sync, str] = {"processes": quota_cost.GROUPED_NOTES, "always": quota_cost.STRICT_NOTES}
    for sync, notes in others.items():
        measured = quota_cost.measure(folder / f"quota-{sync}", quota_cost.strict(effort), sync)
        lines += [notes, *table(without_bars(measured.figures)), ""]
    return lines


def _protocols(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    return _told(protocol_cost.NOTES, protocol_cost.measure(folder, quick=quick), figures)


def _cache(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    del folder
    return _told(prompt_cache.NOTES, prompt_cache.measure(quick=quick), figures)


def _conversations(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    del folder
    return _told(conversations.NOTES, conversations.measure(quick=quick), figures)


def _holds(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    return _told(holds.NOTES, holds.measure(folder, quick=quick), figures)


def _large(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    lines = [large.NOTES]
    for part in large.measure(folder, quick=quick):
        figures += part.figures
        lines += [*part.lines(), ""]
    return lines


def _volunteers(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    return _told(volunteer_cost.NOTES, volunteer_cost.measure(folder, quick=quick), figures)


def _told(notes: str, measured: Sequence[Figure], figures: list[Figure]) -> list[str]:
    figures += measured
    return [notes, *table(measured)]


class _Section(Protocol):
    def __call__(self, folder: Path, figures: list[Figure], *, quick: bool) -> list[str]: ...


class _Comparison(Protocol):
    def __call__(self, folder: Path, packages: Path, *, quick: bool) -> list[str]: ...


_SECTIONS: dict[str, _Section] = {
    "chat": _chat,
    "protocols": _protocols,
    "cache": _cache,
    "conversations": _conversations,
    "speech": _speech,
    "recognition": _recognition,
    "talk": _talk,
    "quota": _quota,
    "holds": _holds,
    "large": _large,
    "volunteers": _volunteers,
}
_COMPARISONS: dict[str, tuple[str, _Comparison]] = {
    "compare-chat": (compared_chat.NOTES, compared_chat.measure),
    "compare-speech": (compared_speech.NOTES, compared_speech.measure),
}


if __name__ == "__main__":
    sys.exit(main())
