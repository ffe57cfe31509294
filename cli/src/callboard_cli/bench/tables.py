"""The tables of a measurement, the same for the terminal and for the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Rows = list[Sequence[str]]
NAMES = ("A", "B")
"""How tables call the first and the second server."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title; the first row holds the headings, and a note says what its words mean."""

    title: str
    rows: Rows
    note: str = ""


def tables_of(found: dict[str, Any]) -> list[Table]:
    """All tables that have something to tell."""
    tables = [_durations(found), _rates(found), _turns(found), _underruns(found), _comparison(found), _errors(found)]
    return [table for table in tables if len(table.rows) > 1]


def milliseconds(value_s: float | None) -> str:
    """A duration in milliseconds with three digits that count; empty for None."""
    if value_s is None:
        return ""
    value_ms = value_s * 1000
    return f"{value_ms:,.0f}" if value_ms >= 100 else f"{value_ms:.3g}"


def _cells(summary: dict[str, Any]) -> list[str]:
    return [str(summary["count"]), *(milliseconds(summary[name]) for name in ("p50", "p90", "p99", "max"))]


def _durations(found: dict[str, Any]) -> Table:
    rows: Rows = [("work", "server", "metric", "count", "p50", "p90", "p99", "max")]
    for work in found["works"]:
        for name, summary in work["durations"].items():
            if summary is not None:
                rows.append((work["work"], NAMES[work["target"]], name, *_cells(summary)))
    return Table(
        "Durations in ms, from the moment at which a request was due",
        rows,
        "time_to_first_chunk: to the first token; time_per_output_token: each token after it; "
        "time_to_first_sound: to the first sound; duration: to the end of the reply or the sound",
    )


def _rates(found: dict[str, Any]) -> Table:
    head = ("work", "server", "requests", "succeeded", "failed", "window s", "requests/s", "tokens/s", "audio s/s")
    rows: Rows = [head]
    for work in found["works"]:
        failed = work["requests"] - work["succeeded"]
        counts = work["work"], NAMES[work["target"]], str(work["requests"]), str(work["succeeded"]), str(failed)
        speaks = work["work"] in {"speech", "rooms"}
        tokens = "" if speaks else f"{work['output_tokens_per_s']:,.1f}"
        audio = f"{work['audio_s_per_s']:,.2f}" if speaks else ""
        rows.append((*counts, f"{work['window_s']:.1f}", f"{work['requests_per_s']:,.2f}", tokens, audio))
    return Table("Rates over the time that was measured", rows)


def _turns(found: dict[str, Any]) -> Table:
    rows: Rows = [("server", "turn", "count", "p50", "p90", "p99", "max")]
    for work in found["works"]:
        for turn, summary in work["first_by_turn"].items():
            if summary is not None:
                rows.append((NAMES[work["target"]], turn, *_cells(summary)))
    return Table("First token in ms, by the turn of a conversation", rows)


def _underruns(found: dict[str, Any]) -> Table:
    rows: Rows = [("work", "server", "requests with any", "underruns", "silence s", "audio s")]
    for work in found["works"]:
        if work["audio_s"]:
            lost = work["underruns"]
            share = f"{lost['requests']} of {work['succeeded']}"
            figures = str(lost["count"]), f"{lost['seconds']:.2f}", f"{work['audio_s']:.1f}"
            rows.append((work["work"], NAMES[work["target"]], share, *figures))
    return Table("Underruns of a player that starts with the first sound", rows)


def _comparison(found: dict[str, Any]) -> Table:
    rows: Rows = [("work", "metric", "pairs", "B / A", "half of them from", "to", "B larger in")]
    for one in found["comparison"]:
        quartiles = f"{one['lower_quartile']:.2f}", f"{one['upper_quartile']:.2f}"
        larger = f"{one['second_larger']} of {one['pairs']}"
        rows.append((one["work"], one["metric"], str(one["pairs"]), f"{one['median']:.2f}", *quartiles, larger))
    return Table("B in comparison with A, measured in turn", rows)


def _errors(found: dict[str, Any]) -> Table:
    rows: Rows = [("work", "server", "error", "count", "for example")]
    for work in found["works"]:
        for error in work["errors"]:
            rows.append((work["work"], NAMES[work["target"]], error["kind"], str(error["count"]), error["example"]))
    return Table("Errors by kind: status, where there was one, and code", rows)
