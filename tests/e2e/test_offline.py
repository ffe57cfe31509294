"""Nothing of Callboard speaks to the outside unasked: all services run in a network without a way out."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.models import missing_model_files
from tests.support.offline import attempts, missing

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

TRIES = """
import socket
for target in (("192.0.2.7", 443), ("2001:db8::7", 443)):
    with socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET) as one:
        one.settimeout(1)
        one.connect_ex(target)
try:
    socket.getaddrinfo("telemetry.example.org", 443)
except OSError:
    pass
"""


def test_the_watch_sees_lookups_and_connections(tmp_path: Path) -> None:
    code, output, found = attempts(tmp_path, [sys.executable, "-c", TRIES], 60)
    assert code == 0, output
    assert "tcp 192.0.2.7 443" in found
    assert any(line.endswith("53 telemetry.example.org") for line in found), found


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_model_files()), reason=f"model files missing: {', '.join(missing_model_files())}")
def test_no_service_speaks_to_the_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The scenario runs in a folder of its own, without settings of this machine, and finds the tests' modules.
    for name in [*os.environ]:
        if name.startswith(("CALLBOARD_", "ORT_", "HF_", "DO_NOT_TRACK")) and name != "CALLBOARD_MODEL_DIR":
            monkeypatch.delenv(name)
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.chdir(tmp_path)
    code, output, found = attempts(tmp_path, [sys.executable, "-m", "tests.e2e.offline_scenario"], 360)
    assert code == 0, output
    assert "a reply, " in output
    assert found == []
