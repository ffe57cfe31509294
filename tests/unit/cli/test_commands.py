"""The command line: what it prints, and its exit codes."""

import json
import os
import socket
from pathlib import Path

import pytest

from callboard_cli.__main__ import main
from callboard_cli.configuration import read_config
from callboard_cli.failures import ExitCode
from callboard_cli.up import bus_server
from callboard_cli.up.banner import banner
from callboard_cli.up.ports import free_ports
from callboard_cli.up.services import plan
from callboard_contracts.config import Config

pytestmark = pytest.mark.unit


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with nothing configured and all ports of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLBOARD_CONFIG", raising=False)
    monkeypatch.setenv("CALLBOARD_MODEL_DIR", str(tmp_path / "models"))
    edge, edge_metrics, quota_metrics, bus = free_ports(4)
    monkeypatch.setenv("CALLBOARD__EDGE__PORT", str(edge))
    monkeypatch.setenv("CALLBOARD__EDGE__METRICS_PORT", str(edge_metrics))
    monkeypatch.setenv("CALLBOARD__QUOTA__METRICS_PORT", str(quota_metrics))
    monkeypatch.setenv("CALLBOARD__NATS__URL", f"nats://127.0.0.1:{bus}")
    return tmp_path


def test_a_wrong_setting_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "callboard.toml").write_text("[edge]\nmax_body_bytes = 'many'\n")
    assert main(["doctor"]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("callboard: edge.max_body_bytes: found 'many'")
    assert error.count("\n") == 1


def test_a_missing_file_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(home / "none.toml"), "models", "list"]) == ExitCode.USAGE
    assert capsys.readouterr().err == f"callboard: {home}/none.toml: cannot be read: No such file or directory\n"


def test_models_list_shows_what_is_missing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(home / "models")
    assert any("kokoro-82m-int8.onnx" in line and "missing" in line and "used" in line for line in lines)


def test_doctor_says_how_to_fix_each_failure(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_config(None).config
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", config.edge.port))
        holder.listen(1)
        assert main(["doctor"]) == ExitCode.FAILED
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    assert len(failed) == 2
    assert failed[0] == (
        f"FAIL  port of edge.port: 127.0.0.1:{config.edge.port} - "
        "address already in use; stop what listens there or set edge.port"
    )
    assert "56 of 56 files not in" in failed[1]
    assert "run `callboard models fetch`" in failed[1]
    assert any(line.startswith("ok    nats-server: nats-server: v2.") for line in lines)


def test_up_refuses_a_taken_port_before_it_fetches(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_config(None).config
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", config.edge.port))
        holder.listen(1)
        assert main(["up"]) == ExitCode.PORT_TAKEN
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"callboard: edge.port: port {config.edge.port} on 127.0.0.1")
    assert not (home / "models").exists()


def test_up_reports_a_failed_download(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(home))
    assert main(["up"]) == ExitCode.DOWNLOAD_FAILED
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith(
        "callboard: models: smollm2-135m-instruct-q4_1.gguf could not be fetched (Hugging Face:"
    )


def test_the_plan_starts_one_process_for_each_pool_and_gives_each_a_port() -> None:
    config = Config.model_validate(
        {
            "chat": {"pools": {"small": {"backend": "fake"}, "large": {"backend": "fake", "metrics_port": 9555}}},
            "tts": {"pools": {"voice": {"backend": "fake"}}},
        }
    )
    service_plan = plan(config, Path("callboard.toml"), {"HOME": "/nowhere"})
    assert [service.name for service in service_plan.services] == [
        "edge",
        "chat-small",
        "chat-large",
        "tts-voice",
        "rooms",
        "quota",
    ]
    ports = [service.ready_port for service in service_plan.services]
    assert len(set(ports)) == 6
    assert ports[2] == 9555
    assert service_plan.environ["CALLBOARD__CHAT__POOLS__SMALL__METRICS_PORT"] == str(ports[1])
    assert "CALLBOARD__CHAT__POOLS__LARGE__METRICS_PORT" not in service_plan.environ
    assert service_plan.environ["HOME"] == "/nowhere"
    assert service_plan.services[1].argv[1:] == (
        "-m",
        "callboard_chat",
        "--config",
        "callboard.toml",
        "--pool",
        "small",
    )


def test_the_banner_has_examples_that_can_be_pasted(home: Path) -> None:
    config = read_config(None).config
    text = banner(config, 8080, 3.21, "var")
    assert text.startswith("Callboard is ready at http://127.0.0.1:8080 (3.2 s)\n")
    bodies = [json.loads(line.split("-d '", 1)[1].removesuffix("'")) for line in text.splitlines() if " -d '" in line]
    assert bodies[0]["stream"] is True
    assert bodies[0]["model"] in config.chat.models
    assert bodies[1]["voice"] == "af_heart"
    assert "'" not in json.dumps(bodies)
    assert "http://127.0.0.1:8080/docs" in text
    assert "    http://127.0.0.1:8080/\n" in text
    assert home.exists()


def test_the_banner_of_a_site_that_requires_keys_mentions_the_key() -> None:
    config = Config.model_validate(
        {
            "edge": {"host": "::"},
            "quota": {"require_key": True},
            "chat": {"pools": {"p": {"backend": "fake"}}, "models": {"m": {"pool": "p"}}},
        }
    )
    text = banner(config, 80, 1, "var")
    assert "curl -N http://[::1]:80/v1/chat/completions" in text
    assert "Authorization: Bearer YOUR_KEY" in text
    assert "/v1/audio/speech" not in text


def test_a_folder_that_is_a_file_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "callboard.toml").write_text("[site]\ndata_dir = 'var'\n")
    (home / "var").mkdir()
    (home / "var" / "logs").write_text("")
    assert main(["up"]) == ExitCode.FAILED
    assert capsys.readouterr().err == "callboard: var/logs: file exists\n"


def test_bus_gets_half_of_the_cores_unless_the_operator_says_otherwise() -> None:
    assert 1 <= int(bus_server.environment({})["GOMAXPROCS"]) <= (os.cpu_count() or 1)
    assert bus_server.environment({"GOMAXPROCS": "7", "PATH": "x"}) == {"GOMAXPROCS": "7", "PATH": "x"}
