"""The configuration of a site that serves one GGUF file: that of the operator, with the file as its only chat model."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callboard_cli.configuration import Configuration, read_config
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.models import hub
from callboard_cli.models.adding import model_name, obtain
from callboard_cli.models.command import DEFAULT_CONTEXT_TOKENS, DEFAULT_SLOTS
from callboard_cli.models.downloads import GGUF
from callboard_cli.models.progress import Progress
from callboard_cli.up.launch import Launch
from callboard_cli.up.optional import missing_file
from callboard_cli.up.toml_writer import written
from callboard_contracts.config import Config
from callboard_kit.bus_credentials import write_private
from callboard_kit.model_files import model_folder

FILE = "one-model.toml"
DEFAULT_OUTPUT_TOKENS = 1024
SHOWN_FILES = 12
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)

Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OneModel:
    """What is served, from which folder files are taken, and how the operator is told."""

    launch: Launch
    folder: Path
    say: Callable[[str], None]

    def configuration(self, base: Configuration) -> Configuration:
        """Writes the configuration into `site.data_dir` and reads it, with the environment over it as always.

        Raises:
            CommandError: there is no model, or more than one to choose from.
            SettingsError: a setting is wrong.
        """
        table = tomllib.loads(base.path.read_text(encoding="utf-8"))
        table["chat"] = self._chat(base.config)
        for section in ("tts", "stt"):
            if not self._has_files(base.config, section):
                table.pop(section, None)
        edge: Table = table.setdefault("edge", {})
        edge |= {key: value for key in ("host", "port") if (value := getattr(self.launch, key)) is not None}
        if self.launch.password:
            table.setdefault("quota", {})["require_key"] = True
        path = base.config.site.data_dir.absolute() / FILE
        write_private(path, written(table))
        return read_config(path)

    def _chat(self, config: Config) -> Table:
        launch, path = self.launch, self._model()
        name = launch.name or model_name(path.name)
        context_tokens = launch.context_tokens or DEFAULT_CONTEXT_TOKENS
        metrics_port = next((pool.metrics_port for pool in config.chat.pools.values()), 0)
        pool: Table = {"backend": "llamacpp", "model_file": str(path), "metrics_port": metrics_port}
        pool["slots"] = launch.slots or DEFAULT_SLOTS
        pool |= {"threads": launch.threads} if launch.threads else {}
        pool |= {"max_queued_per_tenant": launch.max_queued} if launch.max_queued else {}
        output_tokens = launch.max_output_tokens or min(DEFAULT_OUTPUT_TOKENS, context_tokens // 2)
        model = {"pool": "local", "context_tokens": context_tokens, "max_output_tokens": output_tokens}
        self.say(f"serving {path.name} as {name}, {pool['slots']} replies at once of {context_tokens} tokens each")
        return {"default_model": name, "pools": {"local": pool}, "models": {name: model}}

    def _model(self) -> Path:
        source = self.launch.model
        if source is None:
            return self._only_file()
        path = next((path for path in self._places(source) if path.is_file()), None)
        if path is None:
            if "," in source:
                raise CommandError("the model: found several addresses; join the parts, and name one", ExitCode.USAGE)
            if not source.startswith(("http://", "https://")) and not _is_repository(source):
                raise CommandError(f"the model: there is no file {source!r}; {self._shown()}", ExitCode.USAGE)
            return obtain(source.replace("/blob/", "/resolve/", 1), self.folder, None, Progress()).path
        with path.open("rb") as file:
            if file.read(len(GGUF)) != GGUF:
                raise CommandError(f"the model: {path} is not a GGUF file", ExitCode.USAGE)
        return path.absolute()

    def _places(self, source: str) -> tuple[Path, ...]:
        path = Path(source).expanduser()
        return (path, self.folder / source, self.folder / path.name)

    def _files(self) -> list[Path]:
        found = sorted(path for path in self.folder.glob("*") if path.suffix.lower() == ".gguf" and path.is_file())
        return [path for path in found if "mmproj" not in path.name.lower() and not _LATER_PART.search(path.name)]

    def _only_file(self) -> Path:
        found = self._files()
        if len(found) != 1:
            raise CommandError(f"the model: none is named; {self._shown()}", ExitCode.USAGE)
        return found[0].absolute()

    def _shown(self) -> str:
        names = [path.name for path in self._files()]
        if not names:
            return f"there is no *.gguf in {self.folder}"
        more = "" if len(names) <= SHOWN_FILES else f" and {len(names) - SHOWN_FILES} more"
        return f"name one of those in {self.folder}: {', '.join(names[:SHOWN_FILES])}{more}"

    def _has_files(self, config: Config, section: str) -> bool:
        """Whether the files of a section's pools are there: nothing is fetched that was not asked for."""
        missing = missing_file(config, section)
        if missing is not None:
            what = {"tts": "speech", "stt": "speech to text"}[section]
            folder = model_folder(config.site)
            self.say(f"no {what}: {missing} is not in {folder}; `callboard models fetch` fetches it")
        return missing is None


def _is_repository(source: str) -> bool:
    return bool(hub.NAME.fullmatch(source)) and not source.startswith((".", "/")) and not source.endswith(".gguf")
