from pathlib import Path

import pytest

from callboard_kit import bus_credentials
from callboard_kit.settings import SettingsError, load_config

pytestmark = pytest.mark.unit


def write(folder: Path, text: str) -> Path:
    file = folder / "callboard.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_config(file, environ or {})
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {}).edge.port == 8080


def test_file_in_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "[edge]\nport = 9999\n")
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {}).edge.port == 9999


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[edge]\nport = 9999\nhost = "127.0.0.1"\n')
    config = load_config(
        file,
        {
            "CALLBOARD__EDGE__PORT": "8081",
            "CALLBOARD__EDGE__HOST": "0.0.0.0",
            "CALLBOARD__EDGE__CORS_ORIGINS": '["https://game.example"]',
        },
    )
    assert (config.edge.port, config.edge.host, config.edge.cors_origins) == (
        8081,
        "0.0.0.0",
        ("https://game.example",),
    )


def test_secret_is_read_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n", encoding="utf-8")
    config = load_config(write(tmp_path, ""), {"CALLBOARD__NATS__PASSWORD_FILE": str(secret)})
    assert config.nats.password is not None
    assert config.nats.password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(config)


def test_model_file_is_a_setting_and_not_a_secret(tmp_path: Path) -> None:
    file = write(tmp_path, '[chat.pools.main]\nbackend = "llamacpp"\n')
    config = load_config(file, {"CALLBOARD__CHAT__POOLS__MAIN__MODEL_FILE": "other.gguf"})
    assert config.chat.pools["main"].model_file == "other.gguf"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[edge]\nprot = 1\n", "edge.prot: no such setting"),
        ("[edge]\nport = 70000\n", "edge.port: found 70000, input should be less than or equal to 65535"),
        ('[chat.pools.main]\nbackend = "gpt"\n', "chat.pools.main.backend: found 'gpt'"),
        (
            '[chat.models.owl]\npool = "nest"\n[chat.pools.main]\nbackend = "fake"\n',
            "chat.models.owl.pool: found 'nest', allowed are main",
        ),
        ('[quota]\ndefault_tier = "gold"\n', "quota.default_tier: found 'gold', allowed are anonymous, standard"),
        ("[edge\n", "not valid TOML"),
    ],
)
def test_wrong_setting_is_one_line_with_the_key(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(write(tmp_path, text))


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "nowhere.toml")


def test_missing_secret_file_is_one_line(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    assert "cannot be read" in refusal(file, {"CALLBOARD__NATS__PASSWORD_FILE": str(tmp_path / "none")})


def test_bus_is_reached_by_an_nkey_and_over_tls(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.write_text("SUA\n")
    environ = {"CALLBOARD__NATS__NKEY_SEED_FILE": str(seed), "CALLBOARD__NATS__USER": "edge"}
    environ |= {"CALLBOARD__NATS__TLS_CA_FILE": "/tls/ca.crt", "CALLBOARD__NATS__TLS_CERT_FILE": "/tls/tls.crt"}
    whole = {**environ, "CALLBOARD__NATS__TLS_KEY_FILE": "/tls/tls.key"}
    nats = load_config(write(tmp_path, ""), whole).nats
    assert nats.nkey_seed is not None
    assert nats.nkey_seed.get_secret_value() == "SUA"
    assert (nats.credentials, nats.uses_tls) == (None, True)
    assert [str(path) for path in (nats.tls_ca_file, nats.tls_cert_file, nats.tls_key_file)] == [
        "/tls/ca.crt",
        "/tls/tls.crt",
        "/tls/tls.key",
    ]
    with pytest.raises(SettingsError, match=r"tls_cert_file and tls_key_file belong together"):
        load_config(write(tmp_path, ""), environ)
    with pytest.raises(SettingsError, match=r"password and nkey_seed are both set"):
        load_config(write(tmp_path, 'nats.password = "x"'), whole)


def test_wrong_secret_is_not_quoted(tmp_path: Path) -> None:
    file = write(tmp_path, '[chat.pools.main]\nbackend = "openai"\napi_key = 12345678\n')
    assert "12345678" not in refusal(file)


def test_admin_token_comes_from_a_file_and_is_long_enough(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("an-operators-own-long-token\n", encoding="utf-8")
    environ = {"CALLBOARD__EDGE__ADMIN_TOKEN_FILE": str(token)}
    read = load_config(write(tmp_path, ""), environ).edge.admin_token
    assert read is not None
    assert read.get_secret_value() == "an-operators-own-long-token"
    assert "an-operators" not in repr(read)
    for short in ("", "too-short-a-token"):
        message = refusal(write(tmp_path, ""), {"CALLBOARD__EDGE__ADMIN_TOKEN": short})
        assert message.startswith("edge.admin_token: ")
        assert not short or short not in message


@pytest.mark.parametrize("text", ["12345678", "1e5", "12#b", "'x'", "true", "[1]"])
def test_secret_from_the_environment_is_taken_as_it_is(tmp_path: Path, text: str) -> None:
    config = load_config(write(tmp_path, ""), {"CALLBOARD__NATS__PASSWORD": text})
    assert config.nats.password is not None
    assert config.nats.password.get_secret_value() == text


def test_secret_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not text"):
        load_config(write(tmp_path, ""), {"CALLBOARD__NATS__PASSWORD_FILE": str(secret)})


@pytest.mark.parametrize(
    ("url", "has_store", "ordered", "known"),
    [
        ("nats://127.0.0.1:4222", True, True, True),
        ("nats://127.0.0.1:4222", True, False, False),
        ("nats://127.0.0.1:4222", False, True, False),
        ("nats://bus.example:4222", True, True, False),
    ],
    ids=["its own bus", "a file system that may lose files", "no store yet", "another bus"],
)
def test_store_of_the_bus_that_up_runs_is_known_where_processes_are_to_sync_it(
    url: str, *, has_store: bool, ordered: bool, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_credentials, "orders_renames", lambda _folder: ordered)
    store = tmp_path / "data" / "nats" / "store"
    (store if has_store else store.parent).mkdir(parents=True)
    (store.parent / "password").write_text("secret", encoding="ascii")
    file = write(tmp_path, f'[site]\ndata_dir = "{tmp_path / "data"}"\n[nats]\nurl = "{url}"\n')
    assert load_config(file, {}).nats.store_dir == (store if known else None)
