"""`callboard models add`: a GGUF file of one's own, by its path, its address, or its name on a hub."""

import re
import tomllib
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.models import hub
from callboard_cli.models.cache import ModelCache, sha256_of
from callboard_cli.models.downloads import GGUF, Download, fetch
from callboard_cli.models.progress import Progress
from callboard_contracts.config import Config

DIGEST_SUFFIX = ".sha256"
MAX_NAME = 32
_QUANTIZATION = re.compile(r"[-.](?:iq|q|f|bf)\d+(?:_[a-z0-9]+)*$", re.IGNORECASE)
_CHAT = re.compile(r"^\[chat\][ \t]*(?:#.*)?$", re.MULTILINE)
_DEFAULT = re.compile(r"^default_model[ \t]*=.*$", re.MULTILINE)
_TABLE = re.compile(r"^\[", re.MULTILINE)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class AddedModel:
    """A GGUF file that is there and checked: its SHA-256, and how a configuration names it."""

    path: Path
    sha256: str
    setting: str


def obtain(source: str, folder: Path, sha256: str | None, progress: Progress) -> AddedModel:
    """Makes a model file available: one on this machine stays where it is, any other is downloaded into the folder.

    Its SHA-256 is kept beside a downloaded file, in the form that `sha256sum -c` reads.

    Raises:
        CommandError: there is no such file, it is no GGUF, has another digest, or cannot be downloaded.
    """
    if sha256 is not None and not _DIGEST.fullmatch(sha256.lower()):
        raise CommandError("--sha256: allowed are 64 hexadecimal digits", ExitCode.USAGE)
    expected = sha256.lower() if sha256 else None
    path = Path(source).expanduser()
    if path.is_file():
        return _local(path.absolute(), expected)
    download = _download(source, expected)
    kept = folder / download.name
    try:
        with ModelCache(folder).lock(progress):
            if kept.exists():
                return _kept(kept, download.sha256)
            digest = fetch(download, folder, progress)
            _digest_file(kept).write_text(f"{digest}  {kept.name}\n", encoding="ascii")
            return AddedModel(kept, digest, kept.name)
    except OSError as error:
        raise CommandError(f"models: {folder}: {error.strerror or error}", ExitCode.DOWNLOAD_FAILED) from None


def _download(source: str, sha256: str | None) -> Download:
    url = urllib.parse.urlsplit(source)
    if url.scheme in {"http", "https"}:
        name = PurePosixPath(urllib.parse.unquote(url.path)).name
        if not name.lower().endswith(".gguf"):
            raise CommandError(f"models: {source[:200]!r}: the address must end in .gguf", ExitCode.USAGE)
        return Download(source, name, sha256)
    if hub.NAME.fullmatch(source) and not source.startswith((".", "/")):
        found = hub.find(source)
        return Download(found.url, found.name, sha256 or found.sha256, found.headers)
    raise CommandError(
        f"models: {source[:200]!r} is no file here, no address, and no name such as owner/repository", ExitCode.USAGE
    )


def _local(path: Path, expected: str | None) -> AddedModel:
    with path.open("rb") as file:
        if file.read(len(GGUF)) != GGUF:
            raise CommandError(f"models: {path}: this is not a GGUF file", ExitCode.USAGE)
    digest = sha256_of(path)
    if expected and digest != expected:
        raise CommandError(f"models: {path}: its SHA-256 is {digest}, expected was {expected}")
    return AddedModel(path, digest, str(path))


def _kept(path: Path, expected: str | None) -> AddedModel:
    """A file of an earlier download, read again."""
    found = _local(path, expected or recorded_digest(path))
    return AddedModel(path, found.sha256, path.name)


def added_files(folder: Path) -> Iterator[Path]:
    """The model files that were added to the folder."""
    for record in sorted(folder.glob(f"*{DIGEST_SUFFIX}")):
        path = record.with_name(record.name.removesuffix(DIGEST_SUFFIX))
        if path.exists():
            yield path


def recorded_digest(path: Path) -> str | None:
    """The SHA-256 that was kept beside a file, or None."""
    try:
        found = _digest_file(path).read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError):
        return None
    return found if _DIGEST.fullmatch(found) else None


def _digest_file(path: Path) -> Path:
    return path.with_name(path.name + DIGEST_SUFFIX)


def model_name(file_name: str) -> str:
    """A name for clients, made from a file's name without its quantization."""
    stem = _QUANTIZATION.sub("", file_name.lower().removesuffix(".gguf"))
    return re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-")[:MAX_NAME].strip("-") or "model"


def tables(name: str, model: AddedModel, slots: int, context_tokens: int) -> str:
    """What a configuration says of the model: a pool of its own and the model in it."""
    setting = model.setting.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f"[chat.pools.{name}]\n"
        'backend = "llamacpp"\n'
        f'model_file = "{setting}"  # sha256 {model.sha256}\n'
        f"slots = {slots}\n"
        "\n"
        f"[chat.models.{name}]\n"
        f'pool = "{name}"\n'
        f"context_tokens = {context_tokens}\n"
    )


def write(path: Path, name: str, addition: str, *, default: bool) -> None:
    """Adds tables to a configuration file, or to a copy of the packaged one where there is none; whole or not at all.

    Raises:
        CommandError: the file has such a pool or model already, or would not be valid.
    """
    exists = path.exists()
    packaged = files("callboard_cli") / "callboard.toml"
    text = path.read_text(encoding="utf-8") if exists else packaged.read_text(encoding="utf-8")
    chat: dict[str, Any] = tomllib.loads(text).get("chat", {})
    if name in chat.get("pools", {}) or name in chat.get("models", {}):
        raise CommandError(f"{path}: has a pool or model {name!r} already; --name gives another", ExitCode.USAGE)
    changed = f"{text.rstrip()}\n\n{addition}"
    if default:
        changed = _with_default(changed, name)
    try:
        Config.model_validate(tomllib.loads(changed))
    except (ValidationError, tomllib.TOMLDecodeError):
        raise CommandError(f"{path}: cannot be changed by a program; add this by hand:\n{addition}") from None
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(changed, encoding="utf-8")
    if exists:
        draft.chmod(path.stat().st_mode)
    draft.replace(path)


def _with_default(text: str, name: str) -> str:
    line = f'default_model = "{name}"'
    heading = _CHAT.search(text)
    if heading is None:
        return f"[chat]\n{line}\n\n{text}" if not _TABLE.search(text) else f"{text}\n[chat]\n{line}\n"
    end = following.start() if (following := _TABLE.search(text, heading.end())) else len(text)
    section = text[heading.end() : end]
    changed = _DEFAULT.sub(line, section, count=1) if _DEFAULT.search(section) else f"\n{line}{section}"
    return text[: heading.end()] + changed + text[end:]
