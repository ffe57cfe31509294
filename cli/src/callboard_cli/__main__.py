"""`callboard`: the command line."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from callboard_cli import (
    backup,
    characters,
    dlq,
    doctor,
    drain,
    keys,
    kudos,
    rooms,
    status,
    streams,
    talkmaster,
    usage,
    workers,
)
from callboard_cli.bench import command as bench
from callboard_cli.failures import CommandError, ExitCode, Interrupted, command_error
from callboard_cli.models import command as models
from callboard_cli.nats import command as nats
from callboard_cli.up import command as up
from callboard_cli.volunteer import command as volunteer
from callboard_contracts.errors import CallboardError
from callboard_kit.settings import SettingsError


def parser() -> argparse.ArgumentParser:
    """Returns the parser of every command."""
    top = argparse.ArgumentParser(prog="callboard", description="A self-hosted backend for talking characters.")
    top.add_argument("--version", action="version", version=f"callboard {version('callboard-cli')}")
    top.add_argument("--config", type=Path, help="the configuration file; default: callboard.toml, else a built-in one")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        up,
        doctor,
        status,
        models,
        nats,
        streams,
        keys,
        usage,
        kudos,
        workers,
        rooms,
        characters,
        dlq,
        drain,
        backup,
        talkmaster,
        volunteer,
        bench,
    ):
        module.register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; an error is one line on standard error."""
    arguments = parser().parse_args(argv)
    # Commands print their own messages; log lines of libraries are for services.
    logging.getLogger().addHandler(logging.NullHandler())
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return int(arguments.run(arguments))
    except (CommandError, CallboardError, SettingsError) as error:
        failure = command_error(arguments.command, error)
        sys.stderr.write(f"callboard: {failure}\n")
        return failure.code
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("callboard: interrupted\n")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"callboard: {where}{(error.strerror or type(error).__name__).lower()}\n")
        return ExitCode.FAILED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


if __name__ == "__main__":
    sys.exit(main())
