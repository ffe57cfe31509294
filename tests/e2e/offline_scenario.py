"""`callboard up` with its real models from start to end: every service, a reply and speech. Run as a program."""

import json
import signal
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.children import Child, wait_until
from tests.support.models import CHAT_MODEL, SPEECH_MODEL, VOICE

EDGE = "http://127.0.0.1:8080"
PARTS = {"edge", "chat", "tts", "quota", "rooms"}
QUIET_S = 5.0
"""How long everything is left alone afterwards; what libraries collect they send after a while."""


def post(path: str, body: dict[str, Any]) -> bytes:
    """Posts a body and returns the reply's."""
    request = urllib.request.Request(
        f"{EDGE}{path}", json.dumps(body).encode(), {"Content-Type": "application/json", "Connection": "close"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return reply.read()


def ready() -> bool:
    """Whether the edge offers both models."""
    try:
        with urllib.request.urlopen(f"{EDGE}/v1/models", timeout=5) as reply:
            offered = {model["id"] for model in json.load(reply)["data"]}
    except OSError:
        return False
    return {CHAT_MODEL, SPEECH_MODEL} <= offered


def main() -> int:
    """Runs the scenario in the working directory; prints one line and returns 0 when all went well."""
    folder = Path.cwd()
    up = Child([sys.executable, "-m", "callboard_cli", "up"], folder / "up.log")
    try:
        wait_until(ready, 180, "callboard is ready", interval_s=0.2)
        reply = json.loads(
            post(
                "/v1/chat/completions",
                {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 12},
            )
        )
        assert reply["choices"][0]["message"]["content"]
        sound = post("/v1/audio/speech", {"model": SPEECH_MODEL, "voice": VOICE, "input": "Good evening. Привет."})
        assert len(sound) > 10_000
        time.sleep(QUIET_S)
        up.signal(signal.SIGTERM)
        assert up.wait(90) == 0
        started = {json.loads(line).get("service") for line in up.output().splitlines() if line.startswith("{")}
        print(f"a reply, {len(sound)} bytes of sound, from {sorted(filter(None, started))}")  # noqa: T201
    except Exception:
        print(up.output()[-6000:])  # noqa: T201
        raise
    finally:
        up.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
