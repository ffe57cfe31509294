"""Generates the dashboards of Grafana, the rules of the objectives for Prometheus, and what Kubernetes gets of both.

`python -m deploy.observability.build` writes the files; with `--check` it only names those that differ.
"""

import json
import sys
from pathlib import Path

from deploy.observability import kubernetes, objectives
from deploy.observability.definitions.bus import BUS
from deploy.observability.definitions.capacity import CAPACITY
from deploy.observability.definitions.chat import CHAT
from deploy.observability.definitions.edge import EDGE
from deploy.observability.definitions.quota import QUOTA
from deploy.observability.definitions.recognition import RECOGNITION
from deploy.observability.definitions.rooms import ROOMS
from deploy.observability.definitions.service_level import SERVICE_LEVEL
from deploy.observability.definitions.speech import SPEECH
from deploy.observability.grafana import to_json

HERE = Path(__file__).parent
DASHBOARDS = (SERVICE_LEVEL, EDGE, CHAT, SPEECH, RECOGNITION, ROOMS, QUOTA, BUS, CAPACITY)

RULE_OBJECT = "kubernetes/rules.yaml"


def files() -> dict[Path, str]:
    """Every generated file and its text."""
    dashboards = {
        HERE / "dashboards" / f"{dashboard.key}.json": json.dumps(to_json(dashboard), indent=1, ensure_ascii=False)
        + "\n"
        for dashboard in DASHBOARDS
    }
    rules = {path: path.read_text("utf-8") for path in (HERE / "rules").glob("*.yaml")}
    written = {HERE / "rules" / "objectives.yaml": objectives.rules()}
    every = [text for _, text in sorted({**rules, **written}.items())]
    return {
        **dashboards,
        **written,
        HERE / RULE_OBJECT: kubernetes.prometheus_rule(every),
        HERE / "kustomization.yaml": kubernetes.kustomization(RULE_OBJECT, (each.key for each in DASHBOARDS)),
    }


def differing() -> list[Path]:
    """The generated files that are not as they would be written, and dashboards that nothing generates any more."""
    wanted = files()
    left_over = [path for path in sorted((HERE / "dashboards").glob("*.json")) if path not in wanted]
    return left_over + [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]


def main() -> int:
    """Writes the files, or with `--check` names those that differ."""
    stale = differing()
    if "--check" in sys.argv:
        for path in stale:
            sys.stdout.write(f"{path.relative_to(HERE)} differs; run `python -m deploy.observability.build`\n")
        return len(stale)
    wanted = files()
    for path in stale:
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
        sys.stdout.write(f"wrote {path.relative_to(HERE)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
