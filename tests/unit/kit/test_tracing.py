"""Traces: nothing while they are off, and a clear word where they cannot be made."""

import subprocess
import sys

import pytest

from callboard_kit import tracing

pytestmark = pytest.mark.unit

SERVICES = "callboard_edge.app, callboard_chat.app, callboard_tts.app, callboard_quota.app, callboard_rooms.app"


async def answer() -> int:
    return 7


async def test_off_nothing_is_added_to_what_is_sent() -> None:
    with tracing.span("x", "server", {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}):
        tracing.annotate({"a": 1}, name="y")
        assert tracing.ids() is None
        assert tracing.carried() is None
        assert tracing.carried({"a": "b"}) == {"a": "b"}
    work = answer()
    assert tracing.served(work, "x", None) is work
    assert await work == 7


def test_off_nothing_that_makes_or_sends_spans_is_imported() -> None:
    # FastStream looks whether the names of attributes are installed, by importing them.
    parts = ("opentelemetry.sdk", "opentelemetry.trace", "opentelemetry.exporter", "callboard_kit.otlp")
    code = f"import sys, {SERVICES}; print([name for name in sys.modules if name.startswith({parts})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "callboard_kit.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(tracing.TracesUnavailable, match=r"^site\.traces_endpoint: .*opentelemetry.*extra `traces`"):
        tracing.set_up("edge", "http://127.0.0.1:4318")
