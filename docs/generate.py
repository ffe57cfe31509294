"""Writes the reference pages that follow from the code: settings, errors, metrics, JSON schemas, sampling.

`python docs/generate.py` writes them, `python docs/generate.py --check` only says which differ. A test runs the same
check, so a page never says something else than the code.
"""

import ast
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from runpy import run_path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from callboard_contracts import config, kudos_price, pools, spirit_box, webhooks
from callboard_contracts.chat import Sampling
from callboard_contracts.config import Config
from callboard_contracts.errors import CATALOGUE
from callboard_contracts.section import Section
from callboard_edge.domain.schema_keywords import ANNOTATIONS, ENFORCED, LIMITED, REFUSED
from callboard_worker.metrics import WorkerMetrics

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code; change it there. -->\n"


def settings_page() -> str:
    """Every key of `callboard.toml`."""
    modules = (config, pools, spirit_box, kudos_price, webhooks)
    meanings = {key: meaning for module in modules for key, meaning in _meanings(module).items()}
    lines = [
        NOTE,
        "# Settings",
        "",
        "All services read one file, `callboard.toml`: the file named with `--config`, else `$CALLBOARD_CONFIG`, else",
        "`callboard.toml` in the working directory. Without any, `callboard up` uses the one that comes with it.",
        "",
        "An environment variable stands over a key of the file: `CALLBOARD__EDGE__PORT=8081` sets `edge.port`, and a",
        "name that ends in `_FILE` takes the value from a file, for secrets: `CALLBOARD__NATS__PASSWORD_FILE=/run/pw`.",
        "A key that is not listed here, or a value that is not allowed, stops the process with one line that says so.",
        "",
    ]
    for path, section in _sections(Config, ""):
        lines += [f"## `{path}`", "", inspect.getdoc(section) or "", "", "| key | allowed | default | meaning |"]
        lines.append("|---|---|---|---|")
        for name, field in section.model_fields.items():
            if _inner_section(field.annotation) is None:
                meaning = next(meanings[key] for kind in section.__mro__ if (key := (kind.__name__, name)) in meanings)
                lines.append(f"| `{name}` | {_allowed(field)} | {_default(field)} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def errors_page() -> str:
    """Every error code and what it means."""
    lines = [
        NOTE,
        "# Errors",
        "",
        "One catalogue serves every protocol: the code says what went wrong, the status fits it, and *retry* says",
        "whether the same request can succeed later. The edge puts each into the form of the client's protocol.",
        "",
        "| code | status | retry | meaning |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{code.value}` | {kind.status} | {'yes' if kind.retryable else 'no'} | {kind.meaning} |"
        for code, kind in CATALOGUE.items()
    ]
    return "\n".join(lines) + "\n"


METRIC_MODULES = {
    "Every process": "callboard_kit.metrics",
    "Edge": "callboard_edge.metrics",
    "Chat": "callboard_chat.metrics",
    "Speech": "callboard_tts.metrics",
    "Speech to text": "callboard_stt.metrics",
    "Quota": "callboard_quota.metrics",
    "Rooms": "callboard_rooms.metrics",
}
OF_POOLS = {"Chat", "Speech", "Speech to text"}
"""The services whose processes each belong to a pool; its name is a label of everything that they export."""
UNITS = {
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_ratio": "ratio",
    "_units": "thousandths of a token",
    "_token_usage": "tokens",
    "_characters": "characters",
}
"""What the end of a name says about the unit; a name with none of these counts things."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure as a service publishes it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def unit(self) -> str:
        """What it is measured in."""
        stem = self.name.removesuffix("_total")
        return next((unit for suffix, unit in UNITS.items() if stem.endswith(suffix)), "count")


def metrics_page() -> str:
    """Every figure that the services publish."""
    lines = [
        NOTE,
        "# Metrics",
        "",
        "Each process serves Prometheus's text form at `/metrics` on its metrics port, beside `/healthz` and",
        "`/readyz`. [Watch a running installation](../how-to/watch.md) says how to collect and show them. The names",
        "that begin with `gen_ai_` are OpenTelemetry's for generative models. A histogram is three series:",
        "`<name>_bucket`, `<name>_sum` and `<name>_count`.",
        "",
        "Beside these each process has what Python's client library measures by itself: `process_*` (memory,",
        "processor time, open files, start time) and `python_*` (garbage collection, version). Everything that a",
        "worker exports, these included, has the label `pool`.",
        "",
    ]
    for title, metrics in all_metrics().items():
        lines += [f"## {title}", "", "| name | type | labels | unit | meaning |", "|---|---|---|---|---|"]
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.unit} | {metric.meaning} |")
        lines.append("")
    return "\n".join(lines)


def all_metrics() -> dict[str, list[Metric]]:
    """The metrics of each service, sorted by name; one that several modules hold stands with the first."""
    seen: set[str] = set()
    found: dict[str, list[Metric]] = {}
    for title, module in METRIC_MODULES.items():
        own = {metric.name: metric for metric in _metrics_of(module) if metric.name not in seen}
        if title in OF_POOLS:
            own = {name: replace(metric, labels=(*metric.labels, "pool")) for name, metric in own.items()}
        seen |= own.keys()
        found[title] = [own[name] for name in sorted(own)]
    return found


def _metrics_of(module: str) -> Iterator[Metric]:
    """The metrics of a module: its own, and those of a class or an object that holds some."""
    values: list[Any] = [*vars(importlib.import_module(module)).values()]
    for value in list(values):
        if inspect.isclass(value) and value.__module__ == module and "registry" in inspect.signature(value).parameters:
            holder = cast("Callable[..., object]", value)(registry=CollectorRegistry())
            values += vars(holder).values()
        elif isinstance(value, WorkerMetrics):
            values += vars(value).values()
    for value in values:
        if isinstance(value, MetricWrapperBase):
            (family,) = value.describe()
            name = f"{family.name}{'_total' if family.type == 'counter' else ''}"
            labels = tuple(value._labelnames)  # pyright: ignore[reportPrivateUsage]
            yield Metric(name, family.type, labels, family.documentation)


def _meanings(module: ModuleType) -> dict[tuple[str, str], str]:
    """The sentence under each field of a module's classes, which Python itself forgets."""
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[node.name, field.target.id] = " ".join(str(after.value.value).split())
    return found


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        inner = _inner_section(field.annotation)
        if inner is None:
            continue
        below = f"{path}.{name}" if path else name
        if get_origin(field.annotation) is dict:
            below += ".<name>"
        yield below, inner
        yield from _sections(inner, below)


def _inner_section(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    return annotation if inspect.isclass(annotation) and issubclass(annotation, Section) else None


def _allowed(field: FieldInfo) -> str:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    shown = " ".join(
        f"{words[sign]} {getattr(limit, sign)}" for limit in field.metadata for sign in words if hasattr(limit, sign)
    )
    return f"{_type(field.annotation)}{f', {shown}' if shown else ''}"


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _allowed(FieldInfo.from_annotation(annotation))
    if origin in {Union, UnionType}:
        return " or ".join(dict.fromkeys(_type(each) for each in arguments if each is not NoneType))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    names = {
        "str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path",
        "SecretStr": "secret text", "IPv4Network": "network", "IPv6Network": "network",
    }  # fmt: skip
    return names.get(annotation.__name__, str(annotation.__name__))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True) if field.default is PydanticUndefined else field.default
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, SecretStr):
        return "secret"
    if isinstance(value, tuple):
        value = [str(each) for each in value]
    return f"`{json.dumps(value) if isinstance(value, bool | int | float | list) else value}`"


BACKENDS = {
    "llamacpp": "callboard_chat.backends.llamacpp_request",
    "ollama": "callboard_chat.backends.ollama",
    "openai": "callboard_chat.backends.openai",
    "volunteers": "callboard_chat.backends.volunteers",
}
"""The chat backends with a real engine behind them, each of which declares what it honours."""


def sampling_page() -> str:
    """Which sampling fields each chat backend honours."""
    declared: dict[str, frozenset[str]] = {
        name: importlib.import_module(module).SAMPLING for name, module in BACKENDS.items()
    }
    lines = [
        NOTE,
        "# Sampling",
        "",
        "A request may ask for any of these settings, under the names that its client's protocol gives them. No engine",
        "knows all: a chat worker hands its engine exactly those that the backend declares here, and announces them.",
        "Each protocol refuses or leaves out the others by its own rule. Stop sequences are kept with every engine.",
        "",
        "No range is longer than the context. Of `dry_sequence_breakers` the embedded llama.cpp gets up to 16,",
        "of which four may have more than one character, up to 16, and begin with no small letter then, since all",
        "replies wait while it looks for them in its vocabulary.",
        "",
        f"| field | allowed | {' | '.join(f'`{name}`' for name in BACKENDS)} |",
        f"|---|---|{'---|' * len(BACKENDS)}",
    ]
    for name, field in Sampling.model_fields.items():
        honours = " | ".join("yes" if name in fields else "" for fields in declared.values())
        lines.append(f"| `{name}` | {_allowed(field)} | {honours} |")
    return "\n".join(lines) + "\n"


def json_schema_page() -> str:
    """Every keyword of JSON schemas, and how far replies are held to it."""
    rows = {
        **dict.fromkeys(ENFORCED, ("enforced", "")),
        **{keyword: ("in part", meaning) for keyword, meaning in LIMITED.items()},
        **{keyword: ("refused", meaning) for keyword, meaning in REFUSED.items()},
        **dict.fromkeys(ANNOTATIONS, ("ignored", "says nothing about what is valid")),
    }
    lines = [
        NOTE,
        "# JSON schemas",
        "",
        "What a schema of `response_format`, or of a tool that is `strict`, asks is enforced, or the request is",
        "refused with `unsupported` (400), the keyword and its place. A tool that is not `strict` may say more, which",
        "calls are checked for. Drafts 4, 6, 7, 2019-09 and 2020-12 are read; a schema that names none is read by the",
        "newest that allows it. All engines get one form of draft 2020-12. Under `strict` an unknown keyword is",
        "refused; otherwise it is ignored, as JSON Schema says. Nothing is fetched. A schema that nothing satisfies,",
        "or that is too complex, is refused with `invalid_request` and the bounds that contradict each other.",
        "",
        "With the embedded llama.cpp a reply cannot leave its schema at any temperature, unless it is cut at its limit",
        "(`finish_reason` `length`) or at a stop sequence. Other engines get the schema in their own way. Every whole",
        "reply is checked at its end, and one that violates its schema is the error `engine_failed`: in a stream,",
        "after the text that was sent.",
        "",
        "Replies are narrower than schemas: JSON without white space, the properties that a schema names in its order",
        "and before all others, and integers without a decimal point.",
        "",
        "| keyword | here | limits |",
        "|---|---|---|",
    ]
    lines += [f"| `{keyword}` | {here} | {limits} |" for keyword, (here, limits) in sorted(rows.items())]
    return "\n".join([*lines, "| `x-…` | ignored | says nothing about what is valid |"]) + "\n"


PAGES = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
    "json-schema.md": json_schema_page,
    "sampling.md": sampling_page,
    "asyncapi.json": lambda: str(run_path(str(Path(__file__).with_name("asyncapi.py")))["page"]()),
}


def differing() -> list[str]:
    """The names of the pages that are not as the code would write them."""
    return [name for name, page in PAGES.items() if _read(REFERENCE / name) != page()]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main() -> int:
    """Writes the pages, or with `--check` names those that differ."""
    stale = differing()
    if "--check" in sys.argv:
        print("\n".join(f"docs/reference/{name} is not as the code has it; run `make docs`" for name in stale))
        return len(stale)
    for name in stale:
        (REFERENCE / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"wrote docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
