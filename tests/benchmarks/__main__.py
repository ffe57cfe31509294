"""Measures and prints the figures: `python -m tests.benchmarks [PART...] [--quick] [--write FILE]`."""

import argparse
import logging
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import (
    chat_cost,
    compare,
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
from tests.benchmarks.figures import Figure, table

PAGE = Path("docs/benchmarks.md")
PARTS = (
    "chat",
    "protocols",
    "cache",
    "conversations",
    "speech",
    "recognition",
    "talk",
    "quota",
    "holds",
    "large",
    "volunteers",
)
OTHERS = ("compare",)
"""What needs packages that are no part of the environment, and is measured only when it is named."""

INTRODUCTION = """\
# Benchmarks

`make bench` measures these figures and writes this page. Everything runs on one machine: the clients, the engines,
nats-server and Callboard's own processes share its processor, and all traffic goes over loopback. What is measured
through Callboard and what is measured without it come from the same run.
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

STRICT_NOTES = """\
The same with `sync_interval: always`, as `callboard up` runs its single node: every acknowledged message is on the disk
first, eleven for each reply, so these figures are those of the disk as much as of Callboard:
"""

STAGE_NOTES = """\
### Where the time goes

Seen from outside, by a listener on the bus with the clock of the clients, one request at a time. The listener itself
costs each request a little, so the sum is larger than the figure above.
"""

SHARE_NOTES = "Processor time of each process for one streamed reply of 32 tokens, 16 at once:"


def main() -> int:
    """Measures what was asked for; exit code 1 when a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, *OTHERS, []], default=[], help="what to measure")
    parser.add_argument("--litellm", type=Path, help="the folder that LiteLLM was installed into; for `compare`")
    parser.add_argument("--quick", action="store_true", help="fewer samples, for a look")
    parser.add_argument("--write", type=Path, help=f"the page to write; default: {PAGE} when all is measured")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    if "compare" in parts and arguments.litellm is None:
        parser.error("compare: --litellm FOLDER is missing; pip install --target FOLDER 'litellm[proxy]' makes it")
    # The set's own connections come and go here, which is no news.
    logging.getLogger("callboard_kit").setLevel(logging.ERROR)
    lines = [INTRODUCTION, "## The machine", "", f"Measured on {datetime.now(UTC):%Y-%m-%d}.", ""]
    lines += [*machine.description(), ""]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder:
        if "chat" in parts:
            lines += _chat(Path(folder), figures, quick=arguments.quick)
        if "protocols" in parts:
            measured = protocol_cost.measure(Path(folder), quick=arguments.quick)
            figures += measured
            lines += ["## Protocols", "", protocol_cost.NOTES, *table(measured), ""]
        if "cache" in parts:
            measured = prompt_cache.measure(quick=arguments.quick)
            lines += ["## Prompt cache", "", prompt_cache.NOTES, *table(measured), ""]
        if "conversations" in parts:
            measured = conversations.measure(quick=arguments.quick)
            figures += measured
            lines += ["## Conversations", "", conversations.NOTES, *table(measured), ""]
        if "speech" in parts:
            lines += _speech(Path(folder), figures, quick=arguments.quick)
        if "recognition" in parts:
            lines += _recognition(Path(folder), figures, quick=arguments.quick)
        if "talk" in parts:
            lines += _talk(Path(folder), figures, quick=arguments.quick)
        if "quota" in parts:
            lines += _quota(Path(folder), figures, quick=arguments.quick)
        if "holds" in parts:
            measured = holds.measure(Path(folder), quick=arguments.quick)
            figures += measured
            lines += ["## Holds on a key with little left", "", holds.NOTES, *table(measured), ""]
        if "large" in parts:
            measured = large.measure(Path(folder), quick=arguments.quick)
            figures += measured
            lines += ["## Large", "", large.NOTES, *table(measured), ""]
        if "volunteers" in parts:
            measured = volunteer_cost.measure(Path(folder), quick=arguments.quick)
            figures += measured
            lines += ["## Volunteers", "", volunteer_cost.NOTES, *table(measured), ""]
        if "compare" in parts:
            compared = compare.measure(Path(folder), arguments.litellm, quick=arguments.quick)
            lines += ["## Beside another gateway", "", compare.NOTES, *compared, ""]
    page = "\n".join(lines).rstrip() + "\n"
    print(page)
    whole = parts == PARTS and not arguments.quick
    if whole or arguments.write:
        (arguments.write or PAGE).write_text(page, encoding="utf-8")
    missed = [figure for figure in figures if figure.met is False]
    for figure in missed:
        sys.stderr.write(f"missed: {' '.join(figure.cells)}\n")
    return 1 if missed else 0


def _chat(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    effort = chat_cost.Effort(pairs=200, flood_s=3, staged=100) if quick else chat_cost.Effort()
    lazy = _measured(folder / "lazy", effort, sync_always=False)
    strict = _measured(folder / "strict", effort, sync_always=True)
    figures += lazy.figures
    lines = ["## Chat", "", CHAT_NOTES, LAZY_NOTES, "", *table(lazy.figures), ""]
    lines += [STRICT_NOTES, *table([replace(figure, bar=None) for figure in strict.figures]), ""]
    lines += [STAGE_NOTES, *lazy.stages, "", "With `sync_interval: always`:", "", *strict.stages, ""]
    lines += [SHARE_NOTES, "", *lazy.shares, "", "With `sync_interval: always`:", "", *strict.shares, ""]
    return lines


def _measured(folder: Path, effort: chat_cost.Effort, *, sync_always: bool) -> chat_cost.ChatCost:
    folder.mkdir()
    return chat_cost.measure(folder, effort, sync_always=sync_always)


def _speech(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    measured = speech_cost.measure(folder / "speech", quick=quick)
    if isinstance(measured, str):
        return ["## Speech", "", f"Not measured: {measured}.", ""]
    figures += measured.figures
    return ["## Speech", "", speech_cost.NOTES, *table(measured.figures), ""]


def _recognition(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    measured = recognition_cost.measure(folder / "recognition", quick=quick)
    if isinstance(measured, str):
        return ["## Speech to text", "", f"Not measured: {measured}.", ""]
    figures += measured.figures
    return ["## Speech to text", "", recognition_cost.NOTES, *table(measured.figures), ""]


def _talk(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    measured = talk_cost.measure(folder / "talk", quick=quick)
    if isinstance(measured, str):
        return ["## Talk", "", f"Not measured: {measured}.", ""]
    figures += measured
    return ["## Talk", "", talk_cost.NOTES, *table(measured), ""]


def _quota(folder: Path, figures: list[Figure], *, quick: bool) -> list[str]:
    effort = quota_cost.QUICK if quick else quota_cost.Effort()
    lazy = quota_cost.measure(folder / "quota-lazy", effort, sync_always=False)
    strict = quota_cost.measure(folder / "quota-strict", quota_cost.strict(effort), sync_always=True)
    figures += lazy.figures
    lines = ["## Quota", "", quota_cost.NOTES, LAZY_NOTES, "", *table(lazy.figures), ""]
    return [*lines, quota_cost.STRICT_NOTES, *table([replace(figure, bar=None) for figure in strict.figures]), ""]


if __name__ == "__main__":
    sys.exit(main())
