"""Reads deploy/compose as compose does: merged, with the variables of one set-up, and only its profiles.

No container engine is needed, and none is here; what compose itself makes of the files is not proved by this.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from callboard_contracts.config import Config
from callboard_kit.settings import load_config

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
DEFAULT_SETUP = ".env"
_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::[-?]([^}]*))?\}")


def env_file(path: Path) -> dict[str, str]:
    """The variables of an env file; a value in single quotes is what stands between them."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pairs = [line.partition("=") for line in lines]
    return {key: value[1:-1] if value.startswith("'") else value for key, _, value in pairs}


def setups() -> list[str]:
    """The names of the env files that are set-ups of their own."""
    return sorted({DEFAULT_SETUP, *(path.name for path in FOLDER.glob("*.env"))} - {"container.env"})


@dataclass(frozen=True, slots=True)
class Compose:
    """The compose file under one set-up."""

    setup: str
    variables: dict[str, str]
    document: dict[str, Any]

    @property
    def profiles(self) -> set[str]:
        """The profiles that the set-up turns on."""
        return {name for name in self.variables.get("COMPOSE_PROFILES", "").split(",") if name}

    @property
    def services(self) -> dict[str, Any]:
        """The services that run, by name."""
        return {
            name: service
            for name, service in self.document["services"].items()
            if not service.get("profiles") or self.profiles & set(service["profiles"])
        }

    def environment(self, name: str) -> dict[str, str]:
        """The environment that a service gets."""
        service = self.document["services"][name]
        found: dict[str, str] = {}
        for path in service.get("env_file", []):
            found |= env_file(FOLDER / path)
        given = service.get("environment", {})
        return found | (dict(line.split("=", 1) for line in given) if isinstance(given, list) else given)

    def config(self, name: str, folder: Path) -> Config:
        """What a service's process makes of its file and its environment; its secrets are stand-ins in a folder."""
        environ = self.environment(name)
        mounts = [volume for volume in self.document["services"][name]["volumes"] if isinstance(volume, dict)]
        (source,) = [volume["source"] for volume in mounts if volume["target"] == environ["CALLBOARD_CONFIG"]]
        for key, value in environ.items():
            if key.endswith(("PASSWORD_FILE", "API_KEY_FILE")):
                secret = folder / Path(value).name
                secret.write_text("secret", encoding="ascii")
                environ[key] = str(secret)
        return load_config(FOLDER / source, environ)


def compose(setup: str = DEFAULT_SETUP, over: Mapping[str, str] | None = None, file: str = "compose.yaml") -> Compose:
    """Reads a compose file with the variables of a set-up, and others over them."""
    variables = env_file(FOLDER / setup) | dict(over or {})

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1]) or match[2] or ""

    document = yaml.safe_load((FOLDER / file).read_text(encoding="utf-8"))
    return Compose(setup, variables, _replaced(document, value))


def _replaced(node: Any, value: Any) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(below, value) for key, below in node.items()}
    if isinstance(node, list):
        return [_replaced(below, value) for below in node]
    return _VARIABLE.sub(value, node) if isinstance(node, str) else node
