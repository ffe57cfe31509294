"""The import of AI Talkmaster's configurations: each of the four kinds of hosting, and files that are wrong."""

import tomllib
from pathlib import Path

import pytest

from callboard_cli.__main__ import main
from callboard_cli.failures import ExitCode
from callboard_contracts.config import Config

pytestmark = pytest.mark.unit

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[2] / "docs" / "examples"
KINDS = ("ollama-kokoro", "ollama-text", "openai-openai", "openai-text")
CHAT = "chat_client: {mode: ollama, default_model: owl"


@pytest.mark.parametrize("kind", KINDS)
def test_example_is_what_the_command_makes(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-talkmaster", str(HERE / "talkmaster" / f"{kind}.yml")]) == 0
    written = capsys.readouterr().out
    assert written == (EXAMPLES / f"talkmaster-{kind}.toml").read_text(encoding="utf-8")
    Config.model_validate(tomllib.loads(written))


def test_models_voices_limits_and_rooms_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-talkmaster", str(HERE / "talkmaster" / "ollama-kokoro.yml")]) == 0
    out, err = capsys.readouterr()
    config = Config.model_validate(tomllib.loads(out))
    assert config.chat.default_model == "mistral"
    assert {name: model.aliases for name, model in config.chat.models.items()} == {
        "mistral": ("mistral:latest",),
        "llama3.2": ("llama3.2:latest",),
    }
    assert config.chat.models["mistral"].engine_model == "mistral:latest"
    assert config.tts.models["kokoro"].voices == ("af_alloy", "am_adam", "bf_emma")
    assert config.quota.tiers["anonymous"].tokens_per_day == 1_000_000
    assert (config.quota.weights.prompt_token_cost, config.quota.weights.audio_cost_per_second) == (0.0, 100.0)
    assert config.rooms.keep_alive == ("lobby",)
    for key in ("rate_limit_xForwardedFor", "server.log_file", "liquidsoap_client", "icecast_client"):
        assert key in err


def test_site_with_openai_counts_prompts_and_is_told_where_its_key_goes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-talkmaster", str(HERE / "talkmaster" / "openai-openai.yml")]) == 0
    out, err = capsys.readouterr()
    config = Config.model_validate(tomllib.loads(out))
    assert config.quota.weights.prompt_token_cost == 1.0
    assert config.chat.pools["talkmaster"].url == "https://api.openai.com/v1"
    assert "CALLBOARD__CHAT__POOLS__TALKMASTER__API_KEY_FILE" in err
    assert "CALLBOARD__TTS__POOLS__TALKMASTER__API_KEY_FILE" in err
    assert "openai_key.txt" not in out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("chat_client: {mode: ollama", "not a YAML file"),
        ("- a\n- b", "the file"),
        ("server: {port: 6000}", "chat_client"),
        ("chat_client: {mode: claude, default_model: owl}", "chat_client.mode"),
        (CHAT + ", base_url: [1]}", "chat_client.base_url"),
        (CHAT + "}\nserver: {port: 99999}", "edge.port"),
        (CHAT + "}\nserver: {usage: {rate_limit_per_day: -1}}", "server.usage.rate_limit_per_day"),
        ("[" * 5000, "not a YAML file"),
    ],
)
def test_wrong_file_is_told_in_one_line(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text, encoding="utf-8")
    assert main(["import-talkmaster", str(path)]) in (ExitCode.USAGE, ExitCode.FAILED)
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


def test_file_that_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "callboard.toml"
    target.write_text("mine", encoding="utf-8")
    source = str(HERE / "talkmaster" / "openai-text.yml")
    assert main(["import-talkmaster", source, "--output", str(target)]) == ExitCode.FAILED
    assert target.read_text(encoding="utf-8") == "mine"
    assert "exists already" in capsys.readouterr().err
    assert main(["import-talkmaster", source, "--output", str(tmp_path / "new.toml")]) == 0
    assert "gpt-4o-mini" in (tmp_path / "new.toml").read_text(encoding="utf-8")
