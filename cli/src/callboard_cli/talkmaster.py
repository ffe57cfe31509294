"""`callboard import-talkmaster`: turns an AI Talkmaster server's configuration into a `callboard.toml`."""

import argparse
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_contracts.config import Config

MAX_FILE_BYTES = 1024 * 1024
OPENAI_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "CALLBOARD__{}__POOLS__TALKMASTER__API_KEY_FILE"
POOL = "talkmaster"
DEFAULT_DAY = 100_000
"""The daily limit of a Talkmaster server whose file names none."""
_IGNORED = {
    "server.log_file": "services log to standard error",
    "server.llm_log_file": "what is said never reaches a log",
    "liquidsoap_client": "the edge makes the streams itself",
    "icecast_client": "the edge serves the streams itself",
}


class _Table(BaseModel):
    """A table of the file; keys that are not known are told to the user."""

    model_config = ConfigDict(extra="allow", frozen=True)


def _list(value: Any) -> Any:
    return [] if value is None else value


Names = Annotated[list[str], BeforeValidator(_list)]


class _Usage(_Table):
    use_rate_limit: bool = False
    rate_limit_xForwardedFor: bool = False  # noqa: N815 - Talkmaster's own name
    rate_limit_per_day: int = Field(default=DEFAULT_DAY, ge=0)
    audio_cost_per_second: float = Field(default=100.0, ge=0)


class _Server(_Table):
    host: str = "0.0.0.0"
    port: int = 6000
    usage: _Usage = _Usage()


class _Chat(_Table):
    mode: Literal["ollama", "openai"]
    base_url: str | None = None
    key_file: str | None = None
    default_model: str = "llama3.2"
    allowed_models: Names = []


class _Audio(_Table):
    mode: Literal["kokoro", "openai"]
    base_url: str | None = None
    key_file: str | None = None
    default_voice: str = "alloy"
    default_model: str = "tts-1"
    allowed_voices: Names = []
    allowed_models: Names = []


class _Talkmaster(_Table):
    join_key_keep_alive_list: Names = []


class _File(_Table):
    """A Talkmaster server's configuration."""

    server: _Server = _Server()
    chat_client: _Chat
    audio_client: _Audio | None = None
    aitalkmaster: _Talkmaster = _Talkmaster()


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "import-talkmaster", help="turn an AI Talkmaster server's config.yml into a callboard.toml"
    )
    parser.add_argument("file", type=Path, help="the server's config.yml")
    parser.add_argument("--output", type=Path, help="where to write; default: standard output")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    text, notes = convert(read(arguments.file))
    if arguments.output is None:
        sys.stdout.write(text)
    elif arguments.output.exists():
        raise CommandError(f"{arguments.output}: exists already and is left as it is")
    else:
        arguments.output.write_text(text, encoding="utf-8")
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    return ExitCode.OK


def read(path: Path) -> "_File":
    """Reads a configuration; raises CommandError, with the key at fault."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise CommandError(f"{path}: larger than {MAX_FILE_BYTES} bytes", ExitCode.USAGE)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _File.model_validate(_without_nulls(found))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise CommandError(f"{path}: not a YAML file", ExitCode.USAGE) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CommandError(f"{path}: {key}: {first['msg'].lower()}", ExitCode.USAGE) from None


def convert(found: "_File") -> tuple[str, list[str]]:
    """The `callboard.toml` that does the same, and notes on what has no counterpart or is left to the operator.

    Raises:
        CommandError: the result would not be a right configuration.
    """
    tables = [
        *_edge(found),
        *_chat(found.chat_client),
        *(_speech(found.audio_client) if found.audio_client else ()),
        *_rooms(found.aitalkmaster),
        *_quota(found),
    ]
    text = "\n".join(_toml(name, keys) for name, keys in tables)
    try:
        Config.model_validate(tomllib.loads(text))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"import-talkmaster: this file cannot be turned: {_first_line(error)}") from None
    return text, list(_notes(found))


def _edge(found: "_File") -> Iterator[tuple[str, dict[str, Any]]]:
    yield "edge", {"host": found.server.host, "port": found.server.port}


def _chat(chat: "_Chat") -> Iterator[tuple[str, dict[str, Any]]]:
    models = _models([chat.default_model, *chat.allowed_models])
    default = next(name for name, spellings in models.items() if chat.default_model in spellings)
    yield "chat", {"default_model": default}
    url = chat.base_url or (OPENAI_URL if chat.mode == "openai" else "http://127.0.0.1:11434")
    yield f"chat.pools.{POOL}", {"backend": chat.mode, "url": url.rstrip("/"), "resume": "prefill"}
    for name, spellings in models.items():
        keys: dict[str, Any] = {"pool": POOL, "engine_model": spellings[0]}
        if aliases := [one for one in spellings if one != name]:
            keys["aliases"] = aliases
        yield f"chat.models.{json.dumps(name, ensure_ascii=False)}", keys


def _speech(audio: "_Audio") -> Iterator[tuple[str, dict[str, Any]]]:
    yield "tts", {"default_model": audio.default_model}
    url = audio.base_url or (OPENAI_URL if audio.mode == "openai" else "http://127.0.0.1:8880/v1")
    yield f"tts.pools.{POOL}", {"backend": "openai", "url": url.rstrip("/")}
    voices = list(dict.fromkeys([audio.default_voice, *audio.allowed_voices]))
    for name in dict.fromkeys([audio.default_model, *audio.allowed_models]):
        keys = {"pool": POOL, "voices": voices, "default_voice": audio.default_voice}
        yield f"tts.models.{json.dumps(name, ensure_ascii=False)}", keys


def _rooms(talkmaster: "_Talkmaster") -> Iterator[tuple[str, dict[str, Any]]]:
    if talkmaster.join_key_keep_alive_list:
        yield "rooms", {"keep_alive": talkmaster.join_key_keep_alive_list}


def _quota(found: "_File") -> Iterator[tuple[str, dict[str, Any]]]:
    usage = found.server.usage
    yield "quota", {"anonymous_tier": "anonymous"}
    limits = {"tokens_per_day": usage.rate_limit_per_day} if usage.use_rate_limit else {}
    yield "quota.tiers.anonymous", limits
    yield "quota.tiers.standard", {}
    # A Talkmaster server counts the tokens of replies with Ollama, and those of prompts too with OpenAI.
    prompt_cost = 1.0 if found.chat_client.mode == "openai" else 0.0
    audio_cost = float(usage.audio_cost_per_second)
    yield "quota.weights", {"prompt_token_cost": prompt_cost, "audio_cost_per_second": audio_cost}


def _models(names: list[str]) -> dict[str, list[str]]:
    """Models by the name without `:latest`, with every spelling; the one that the engine surely knows comes first."""
    found: dict[str, list[str]] = {}
    for name in names:
        spellings = found.setdefault(name.removesuffix(":latest"), [])
        if name not in spellings:
            spellings.append(name)
    return {name: sorted(spellings, key=len, reverse=True) for name, spellings in found.items()}


def _notes(found: "_File") -> Iterator[str]:
    for name, client in (("CHAT", found.chat_client), ("TTS", found.audio_client)):
        if client is not None and client.key_file:
            yield f"{client.key_file} holds an API key: give its path to the service as {KEY_VARIABLE.format(name)}"
    if found.server.usage.rate_limit_xForwardedFor:
        yield "server.usage.rate_limit_xForwardedFor: set edge.trusted_proxies to the network of your proxy"
    if found.audio_client is not None and found.audio_client.mode == "kokoro":
        yield 'audio_client: a pool with backend = "kokoro_onnx" speaks with Kokoro\'s voices without another server'
    if found.audio_client is not None:
        yield "rooms are heard at /ait/stream/ of the edge; set room_stream.url where it is reached under another name"
    for key in _unknown(found, ""):
        reason = _IGNORED.get(key, "it has no counterpart")
        yield f"{key}: left out; {reason}"


def _unknown(table: "_Table", prefix: str) -> Iterator[str]:
    for key in table.model_extra or {}:
        yield f"{prefix}{key}"
    for key in type(table).model_fields:
        value = getattr(table, key)
        if isinstance(value, _Table):
            yield from _unknown(value, f"{prefix}{key}.")


def _without_nulls(value: Any) -> Any:
    """A key without a value is one that is left out."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value


def _toml(name: str, keys: dict[str, Any]) -> str:
    lines = [f"{key} = {_value(value)}" for key, value in keys.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
