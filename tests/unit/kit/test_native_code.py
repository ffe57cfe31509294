import ctypes
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from callboard_kit.native_code import load_failure

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "library", "remedy"),
    [
        (
            "libgomp.so.1: cannot open shared object file: No such file or directory",
            "libgomp.so.1",
            "install the system package libgomp1",
        ),
        (
            "libcuda.so.1: cannot open shared object file: No such file or directory",
            "libcuda.so.1",
            "give the container a GPU",
        ),
        (
            "libwhatever.so.3: cannot open shared object file: No such file or directory",
            "libwhatever.so.3",
            "install the system package that has it",
        ),
        (
            "/tmp/tmp1/libespeak-ng.so: failed to map segment from shared object",
            "/tmp/tmp1/libespeak-ng.so",
            "without noexec",
        ),
        (
            "/lib/libc.so.6: version `GLIBC_2.38' not found (required by /opt/engine.so)",
            "/opt/engine.so needs GLIBC_2.38",
            "use a newer system",
        ),
        (
            "/opt/engine.so: undefined symbol: run",
            "/opt/engine.so cannot be loaded: undefined symbol: run",
            "reinstall",
        ),
    ],
)
def test_a_library_is_named_with_the_remedy(text: str, library: str, remedy: str) -> None:
    for error in (ImportError(text), OSError(text)):
        line = load_failure(error)
        assert line is not None
        assert f"the library {library}" in line
        assert remedy in line


def test_the_loader_itself_speaks_the_language_that_is_understood(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    for path, remedy in (("libcallboard-none.so.1", "is missing"), (str(broken), "reinstall its package")):
        with pytest.raises(OSError, match=r"\.so") as caught:
            ctypes.CDLL(path)
        line = load_failure(caught.value)
        assert line is not None
        assert path in line
        assert remedy in line
    with pytest.raises(ImportError) as missing:
        importlib.import_module("callboard_none")
    assert load_failure(missing.value) == (
        "the package callboard_none is missing; install it, or use an image that has it"
    )


def test_a_cause_counts_and_other_errors_do_not() -> None:
    failed = RuntimeError("the engine does not start")
    failed.__cause__ = OSError("libgomp.so.1: cannot open shared object file: No such file or directory")
    line = load_failure(ExceptionGroup("parts", [failed]))
    assert line is not None
    assert "libgomp1" in line
    for other in (
        FileNotFoundError(2, "No such file or directory", "/models/a.so"),
        ValueError("a.so: bad"),
        OSError(),
    ):
        assert load_failure(other) is None


STARTS = """
import ctypes, sys
from callboard_kit.lifecycle import run_service

async def main(config, shutdown, arguments):
    ctypes.CDLL("libgomp-of-another-system.so.1")

sys.exit(run_service("engine", main))
"""


def test_a_service_that_cannot_load_its_engine_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTS], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert "callboard engine: the library libgomp-of-another-system.so.1 is missing; " in lines[-1]
    assert json.loads(lines[-2])["event"] == "start_failed"


@pytest.mark.parametrize("service", ["chat", "edge", "quota", "rooms", "stt", "tts"])
def test_a_service_whose_imports_fail_says_so_in_one_line(service: str, tmp_path: Path) -> None:
    broken = "raise ImportError('libsound.so.4: cannot open shared object file: No such file or directory')"
    (tmp_path / "prometheus_client.py").write_text(broken)
    pool = ["--pool", "local"] if service in ("chat", "stt", "tts") else []
    done = subprocess.run(
        [sys.executable, "-m", f"callboard_{service}", *pool],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"callboard {service}: the library libsound.so.4 is missing; install the system package that has it\n"
    )
