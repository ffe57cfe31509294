"""The product under test, and the engine behind it."""

import json
import os
import urllib.request
from typing import Any

ROOT = os.environ["BOARD_URL"]
BASE = f"{ROOT}/v1"
KEY = os.environ["BOARD_KEY"]
TINY_KEY = os.environ["BOARD_TINY_KEY"]
MODEL = "owl"
PLACE = ['{"city":', '"Oslo","people":3}']
"""A reply that is an object, in two tokens."""


def engine(**script: Any) -> None:
    """Lets the engine meet the next requests so."""
    body = json.dumps(script).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(os.environ["ENGINE_CONTROL"], body, headers), timeout=20).close()


def last_messages() -> list[dict[str, Any]]:
    """What the engine was sent last."""
    with urllib.request.urlopen(os.environ["ENGINE_CONTROL"], timeout=20) as answer:
        return json.load(answer)["requests"][-1]["messages"]
