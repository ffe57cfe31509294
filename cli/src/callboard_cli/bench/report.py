"""What is written of a measurement: lines and tables, and a folder with a page, a picture and the data."""

import json
from html import escape
from pathlib import Path
from typing import Any

from callboard_cli.bench.plot import plot_of
from callboard_cli.bench.tables import NAMES, Table, tables_of
from callboard_cli.tables import print_table

PAGE, PICTURE, DATA = "report.html", "plot.png", "results.json"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """\
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0 0 1.5rem; }
th, td { border-bottom: 1px solid #8886; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.doubt { border-left: 4px solid #b00020; padding-left: .75rem; }
svg { width: 100%; height: auto; }
"""


def heading(found: dict[str, Any]) -> list[str]:
    """What was measured, in lines."""
    plan = found["plan"]
    lines: list[str] = []
    for name, target in zip(NAMES, found["targets"], strict=False):
        kind = "Callboard" if target["callboard"] else "OpenAI-compatible"
        speech = f", speech {target['speech_model']} ({target['voice']})" if target["speech_model"] else ""
        lines.append(f"{name}: {target['url']} ({kind}), model {target['model']}{speech}")
    load = (
        f"{plan['at_once']} at once"
        if plan["rate_per_s"] is None
        else f"{plan['rate_per_s']:g} due each second ({plan['arrivals']} gaps), at most {plan['at_once']} at once"
    )
    length = f"replies of at most {plan['max_tokens']} tokens"
    lines.append(f"load: {load}; {length}; seed {plan['seed']}; begun {found['started']}")
    return lines


def remarks(found: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know."""
    left_out = [f"{work} left out: {why}" for work, why in found["left_out"].items()]
    stopped = ["stopped before its end: these are the requests that had ended"] if found["interrupted"] else []
    return [*stopped, *left_out, *found["notes"]]


def generator_line(found: dict[str, Any]) -> str:
    """How busy the generator itself was."""
    generator = found["generator"]
    lag = generator["lag"]
    if lag is None:
        return "generator: too short to be judged"
    worst = f"{lag['max'] * 1000:.1f} ms at most" if lag["p99"] is None else f"{lag['p99'] * 1000:.1f} ms at p99"
    return (
        f"generator: woke {lag['p50'] * 1000:.1f} ms late at the median, {worst}; "
        f"{generator['processor_share']:.0%} of a processor core"
    )


def print_report(found: dict[str, Any]) -> None:
    """Prints lines and tables."""
    for line in heading(found):
        print(line)
    for table in tables_of(found):
        print(f"\n{table.title}")
        print_table(table.rows)
        if table.note:
            print(f"({table.note})")
    print()
    for line in [*remarks(found), generator_line(found)]:
        print(line)
    for doubt in found["generator"]["doubts"]:
        print(f"DOUBTFUL: {doubt}")


def page(found: dict[str, Any]) -> str:
    """The report as one HTML file that loads nothing; every word of a server is escaped."""
    doubts = [f'<p class="doubt">Doubtful: {escape(doubt)}</p>' for doubt in found["generator"]["doubts"]]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width"><title>callboard bench</title>',
        f"<style>{_STYLE}</style></head><body><h1>callboard bench</h1>",
        *(f"<p>{escape(line)}</p>" for line in heading(found)),
        *doubts,
        plot_of(found).svg("For each work the share of requests that had begun by when, and each request by its time"),
        *(_html_table(table) for table in tables_of(found)),
        "<ul>",
        *(f"<li>{escape(line)}</li>" for line in [*remarks(found), generator_line(found)]),
        "</ul></body></html>",
    ]
    return "\n".join(parts) + "\n"


def write_folder(folder: Path, found: dict[str, Any]) -> None:
    """Writes the page, the picture and the data."""
    # What draws takes a while to load, and no other command needs it.
    from callboard_cli.bench.picture import png

    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(page(found), encoding="utf-8")
    (folder / PICTURE).write_bytes(png(plot_of(found)))
    (folder / DATA).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _html_table(table: Table) -> str:
    head, *body = table.rows
    lines = [f"<h2>{escape(table.title)}</h2>", "<table><tr>"]
    lines += [f'<th scope="col">{escape(cell)}</th>' for cell in head]
    lines.append("</tr>")
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body]
    note = [f"<p>{escape(table.note)}</p>"] if table.note else []
    return "\n".join([*lines, "</table>", *note])
