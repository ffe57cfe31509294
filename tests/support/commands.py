"""Runs `callboard` commands inside the test's process, which saves the start of an interpreter for each."""

import asyncio
import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from callboard_cli.__main__ import parser
from callboard_cli.failures import CommandError, command_error
from callboard_contracts.errors import CallboardError
from callboard_kit.settings import SettingsError
from tests.support.processes import Table, toml_text


async def run_command(folder: Path, table: Table, *words: str) -> "subprocess.CompletedProcess[str]":
    """Runs one command in a thread, with a configuration of its own; only one may run at a time."""
    config = folder / "command.toml"
    config.write_text(toml_text(table), encoding="utf-8")
    return await asyncio.to_thread(_run, ["--config", str(config), *words])


def _run(argv: list[str]) -> "subprocess.CompletedProcess[str]":
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        arguments = parser().parse_args(argv)
        try:
            code = int(arguments.run(arguments))
        except (CommandError, CallboardError, SettingsError) as raised:
            failure = command_error(arguments.command, raised)
            error.write(f"callboard: {failure}\n")
            code = int(failure.code)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), error.getvalue())
