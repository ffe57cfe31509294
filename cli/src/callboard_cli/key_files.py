"""API keys that commands present to servers: from a file or the environment, never an argument that others see."""

from collections.abc import Mapping
from pathlib import Path

from callboard_cli.failures import CommandError, ExitCode


def read_key(name: str, file: Path | None, environ: Mapping[str, str]) -> str:
    """The key from a file, or else from the environment; empty where neither has one. Raises CommandError."""
    if file is None and f"{name}_FILE" in environ:
        file = Path(environ[f"{name}_FILE"])
    if file is None:
        key = environ.get(name, "").strip()
    else:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file}: the key cannot be read ({type(error).__name__})", ExitCode.USAGE) from None
    if not key.isascii() or not key.isprintable():
        raise CommandError(f"{name}: that is no key", ExitCode.USAGE)
    return key
