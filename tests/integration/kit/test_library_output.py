"""What native code writes to a process's output, as a stub engine would: shown while it loads, then only counted."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.integration

STUB = """
import ctypes, logging, os, sys, warnings
from callboard_kit import library_output
from callboard_kit.logs import setup_logs

setup_logs("stub", "info")
captured = library_output.capture()
libc = ctypes.CDLL(None)
libc.puts(b"loading the model")
libc.fflush(None)
os.write(2, b"backend: cpu\\n")
while True:
    if sys.argv[1] == "loading":
        break
    import time; time.sleep(0.3)
    library_output.hide()
    libc.puts(b"parse: error parsing grammar: MARKER")
    libc.fflush(None)
    os.write(2, b"MARKER: out of memory\\nMARKER without an end")
    print("MARKER", file=sys.stderr)
    warnings.warn("MARKER")
    logging.getLogger("aiohttp.server").error("request from %s: MARKER", "MARKER")
    logging.getLogger("callboard_chat").info("job_ended")
    if sys.argv[1] == "abort":
        os.abort()
    if sys.argv[1] == "late":
        time.sleep(0.5)
        os.write(2, b"MARKER: ASSERT failed\\n")
        time.sleep(1)
        os._exit(3)
    if sys.argv[1] == "flood":
        for _ in range(1000):
            try:
                os.write(2, b"MARKER" * 10_000)
            except BlockingIOError:
                pass
    break
captured.close()
"""


def run(mode: str) -> tuple[int, str, list[dict[str, Any]]]:
    done = subprocess.run([sys.executable, "-c", STUB, mode], capture_output=True, text=True, timeout=30, check=False)
    output = done.stdout + done.stderr
    return done.returncode, output, [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def test_output_of_the_load_is_logged_as_it_is() -> None:
    code, _, lines = run("loading")
    assert code == 0
    assert {line.get("text") for line in lines} >= {"loading the model", "backend: cpu"}


def test_output_after_the_load_is_counted_and_never_shown() -> None:
    code, output, lines = run("serving")
    assert code == 0
    assert "MARKER" not in output
    events = [line["event"] for line in lines]
    assert "job_ended" in events
    hidden = [line for line in lines if line["event"] == "library_output_hidden"]
    assert sum(line["lines"] for line in hidden) >= 4
    assert {phrase for line in hidden for phrase in line["phrases"]} == {"out of memory", "grammar"}


def test_message_of_a_library_is_logged_by_its_place() -> None:
    _, _, lines = run("serving")
    (line,) = [line for line in lines if line["logger"] == "aiohttp.server"]
    assert line["event"].startswith("library_message at ")
    assert line["level"] == "error"


def test_library_that_writes_faster_than_it_is_read_is_not_held_up() -> None:
    code, output, _ = run("flood")
    assert code == 0
    assert "MARKER" not in output


def test_crash_in_native_code_shows_where_and_no_values() -> None:
    code, output, _ = run("abort")
    assert code < 0
    assert "Fatal Python error: Aborted" in output
    assert "MARKER" not in output


def test_a_new_phrase_is_told_at_once_since_it_may_be_the_last() -> None:
    code, output, lines = run("late")
    assert code == 3
    assert "MARKER" not in output
    assert "assert" in {phrase for line in lines for phrase in line.get("phrases", ())}
