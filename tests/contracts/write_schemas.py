"""Writes the JSON schema of every message beside the tests, after the wire was changed on purpose."""

import json
from pathlib import Path

from tests.contracts.messages import MESSAGES

FOLDER = Path(__file__).parent / "schemas"


def main() -> None:
    """Writes one file for each message."""
    for name, model in MESSAGES.items():
        text = json.dumps(model.model_json_schema(), indent=1, sort_keys=True, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
