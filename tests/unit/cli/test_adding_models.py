"""`callboard models add`, `suggest` and `verify`: what is fetched, refused, kept and written."""

import hashlib
import json
import shutil
import tomllib
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import pytest

from callboard_cli.__main__ import main
from callboard_cli.failures import ExitCode
from callboard_cli.models.adding import model_name
from callboard_cli.models.downloads import GGUF
from callboard_cli.models.suggestions import fitting, suggested_models
from callboard_contracts.config import Config
from tests.unit.cli.hub import FakeHub, running_hub

pytestmark = pytest.mark.unit

CONTENT = GGUF + bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = "Owl-3B-Instruct-Q4_K_M.gguf"
REPOSITORY = "acme/Owl-GGUF"
LISTING = f"/api/models/{REPOSITORY}?blobs=true"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with nothing configured, and a folder for models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLBOARD_CONFIG", raising=False)
    monkeypatch.setenv("CALLBOARD_MODEL_DIR", str(tmp_path / "models"))
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        running.etag = '"v1"'
        running.contents[f"/{REPOSITORY}/resolve/main/{FILE}"] = CONTENT
        running.contents["/files/plain.gguf"] = CONTENT
        offer(running, {FILE: DIGEST, "Owl-3B-Instruct-Q8_0.gguf": None, "README.md": None})
        yield running


def offer(hub: FakeHub, names: dict[str, str | None]) -> None:
    files = [{"rfilename": name, **({"lfs": {"sha256": digest}} if digest else {})} for name, digest in names.items()]
    hub.contents[LISTING] = json.dumps({"siblings": files}).encode()


def left_over(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models").rglob("*") if path.is_file() and path.name != ".lock")


def test_name_on_a_hub_is_one_command_from_a_configuration_that_works(
    home: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", REPOSITORY, "--write", "--default"]) == ExitCode.OK
    assert (home / "models" / FILE).read_bytes() == CONTENT
    assert (home / "models" / f"{FILE}.sha256").read_text() == f"{DIGEST}  {FILE}\n"
    config = Config.model_validate(tomllib.loads((home / "callboard.toml").read_text()))
    assert config.chat.default_model == "owl-3b-instruct"
    assert config.chat.pools["owl-3b-instruct"].model_file == FILE
    assert config.chat.models["owl-3b-instruct"].context_tokens == 4096
    # What came with Callboard is still there.
    assert {"smollm2"} < set(config.chat.models)
    assert config.tts.default_model == "kokoro"
    again = main(["models", "add", REPOSITORY, "--write"])
    assert again == ExitCode.USAGE
    assert "has a pool or model 'owl-3b-instruct' already" in capsys.readouterr().err
    assert main(["models", "list"]) == ExitCode.OK
    assert any(FILE in line and "used" in line for line in capsys.readouterr().out.splitlines())
    assert left_over(home) == [FILE, f"{FILE}.sha256"]


def test_download_that_broke_off_goes_on_where_it_was(home: Path, hub: FakeHub) -> None:
    hub.cut_after_bytes = 500_000
    assert main(["models", "add", f"{hub.url}/files/plain.gguf"]) == ExitCode.OK
    assert hub.ranges[-2:] == [None, "bytes=500000-"]
    assert (home / "models" / "plain.gguf").read_bytes() == CONTENT


def test_download_that_changed_meanwhile_begins_anew(home: Path, hub: FakeHub) -> None:
    folder = home / "models" / ".adding"
    folder.mkdir(parents=True)
    (folder / "plain.gguf.part").write_bytes(GGUF + b"of another version")
    (folder / "plain.gguf.part.etag").write_text('"v0"')
    assert main(["models", "add", f"{hub.url}/files/plain.gguf"]) == ExitCode.OK
    assert (home / "models" / "plain.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["{hub}/files/page.gguf"], ExitCode.DOWNLOAD_FAILED, "page.gguf: this is not a GGUF file"),
        (["{hub}/files/none.gguf"], ExitCode.DOWNLOAD_FAILED, "none.gguf: the server answered 404"),
        (["{hub}/files/plain.bin"], ExitCode.USAGE, "the address must end in .gguf"),
        (["{hub}/files/plain.gguf", "--sha256", "0" * 64], ExitCode.DOWNLOAD_FAILED, f"its SHA-256 is {DIGEST}"),
        (["{hub}/files/plain.gguf", "--sha256", "abc"], ExitCode.USAGE, "allowed are 64 hexadecimal digits"),
        (["acme/unknown"], ExitCode.DOWNLOAD_FAILED, "acme/unknown: the hub answered 404"),
        ([f"{REPOSITORY}:Q5_K_M"], ExitCode.USAGE, f"no single file for 'Q5_K_M'; name one as {REPOSITORY}:FILE"),
        (["nothing at all"], ExitCode.USAGE, "is no file here, no address, and no name"),
        (["page.txt"], ExitCode.USAGE, "page.txt: this is not a GGUF file"),
        ([REPOSITORY, "--name", "Not A Name"], ExitCode.USAGE, "--name: allowed are up to 32"),
        ([REPOSITORY, "--slots", "0"], ExitCode.USAGE, "--slots: from 1"),
        ([REPOSITORY, "--default"], ExitCode.USAGE, "--default: only with --write"),
    ],
)
def test_what_is_no_model_is_refused_and_leaves_nothing(
    home: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str], words: list[str], code: ExitCode, reason: str
) -> None:
    hub.contents["/files/page.gguf"] = b"<html>please log in</html>"
    (home / "page.txt").write_text("text")
    assert main(["models", "add", words[0].replace("{hub}", hub.url), *words[1:]]) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert reason in error
    assert not [name for name in left_over(home) if name.endswith((".gguf", ".sha256"))]


def test_hub_whose_file_is_not_what_it_says_is_refused(
    home: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(hub, {FILE: "1" * 64})
    assert main(["models", "add", REPOSITORY]) == ExitCode.DOWNLOAD_FAILED
    assert f"expected was {'1' * 64}" in capsys.readouterr().err
    assert left_over(home) == []


def test_full_disk_is_said_before_the_download(
    home: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_000_000))
    assert main(["models", "add", REPOSITORY]) == ExitCode.DOWNLOAD_FAILED
    assert "has 1 MB free, 257 MB are needed" in capsys.readouterr().err


def test_token_goes_to_the_hub(home: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["models", "add", f"{REPOSITORY}:{FILE}"]) == ExitCode.OK
    assert hub.authorizations[-2:] == ["Bearer hf_secret"] * 2
    assert home.exists()


def test_file_of_this_machine_stays_where_it_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = home / "own.Q4_K_M.gguf"
    own.write_bytes(CONTENT)
    assert main(["models", "add", str(own), "--name", "mine", "--slots", "3"]) == ExitCode.OK
    output = capsys.readouterr().out
    table = tomllib.loads(output.split("--write:", 1)[1])
    assert table["chat"]["pools"]["mine"] == {"backend": "llamacpp", "model_file": str(own), "slots": 3}
    assert DIGEST in output
    assert not (home / "callboard.toml").exists()


def test_operators_file_is_added_to_and_nothing_else_changes(home: Path) -> None:
    (home / "own.gguf").write_bytes(CONTENT)
    pool, model = '[chat.pools.a]\nbackend = "fake"\n', '[chat.models.a]\npool = "a"\n'
    before = f'# mine\n{pool}\n[chat]\n# the usual\ndefault_model = "a"\n\n{model}'
    (home / "callboard.toml").write_text(before)
    (home / "callboard.toml").chmod(0o640)
    assert main(["models", "add", "own.gguf", "--write", "--default"]) == ExitCode.OK
    after = (home / "callboard.toml").read_text()
    assert after.startswith(before.replace('default_model = "a"', 'default_model = "own"').rstrip())
    assert (home / "callboard.toml").stat().st_mode & 0o777 == 0o640


def test_changed_file_is_found_by_verify(home: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", REPOSITORY]) == ExitCode.OK
    assert main(["models", "verify"]) == ExitCode.OK
    (home / "models" / FILE).write_bytes(CONTENT[:-1] + b"?")
    assert main(["models", "verify"]) == ExitCode.FAILED
    assert f"{FILE}: its content is not what it was" in capsys.readouterr().out
    assert main(["models", "add", REPOSITORY]) == ExitCode.FAILED
    assert "expected was" in capsys.readouterr().err


def test_suggestions_fit_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "suggest", "--memory", "8GB"]) == ExitCode.OK
    output = capsys.readouterr().out.splitlines()
    assert output[-1] == "callboard models add unsloth/Qwen3-4B-Instruct-2507-GGUF --write --default"
    assert main(["models", "suggest", "--memory", "1"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("nothing fits into 1 GB")
    assert main(["models", "suggest", "--memory", "much"]) == ExitCode.USAGE
    assert "allowed is an amount such as 8GB" in capsys.readouterr().err
    assert main(["models", "suggest"]) == ExitCode.OK
    assert [one.gigabytes for one in suggested_models()] == sorted(one.gigabytes for one in suggested_models())
    assert fitting(1000)[0] == suggested_models()[-1]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Qwen3-4B-Instruct-2507-Q4_K_M.gguf", "qwen3-4b-instruct-2507"),
        ("mistral.nemo.IQ4_XS.gguf", "mistral-nemo"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("model-f16.gguf", "model"),
        ("----.gguf", "model"),
        ("A-Very-Long-Name-That-Goes-On-And-On-And-On-8B.gguf", "a-very-long-name-that-goes-on-an"),
    ],
)
def test_clients_name_is_made_from_the_files_name(file: str, name: str) -> None:
    assert model_name(file) == name
