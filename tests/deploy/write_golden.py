"""Writes the golden renders of two overlays: `python -m tests.deploy.write_golden`.

They show a reviewer what a patch does in the end. Files that are taken whole, such as dashboards, and the hash of the
configuration are left out.
"""

import re
from pathlib import Path

import yaml

from tests.deploy.kubernetes import rendered

FOLDER = Path(__file__).parent / "golden"
OVERLAYS = ("dev", "gpu-scale-to-zero")
HASH = re.compile(r"\b(callboard-config|nats-config)-[0-9a-z]{10}\b")


def golden(overlay: str) -> str:
    """The text of one overlay's file."""
    objects = [each for each in rendered(overlay) if each["kind"] not in {"ConfigMap", "PrometheusRule"}]
    return HASH.sub(r"\1-HASH", yaml.dump_all(objects, Dumper=yaml.CSafeDumper, sort_keys=True, width=120))


def main() -> None:
    """Writes both files."""
    FOLDER.mkdir(exist_ok=True)
    for overlay in OVERLAYS:
        (FOLDER / f"{overlay}.yaml").write_text(golden(overlay), encoding="utf-8")


if __name__ == "__main__":
    main()
