"""How commands fail: one line on standard error and an exit code for the kind of failure."""

from enum import IntEnum

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_kit.settings import SettingsError


class ExitCode(IntEnum):
    """The exit codes of `callboard`; documented in docs/reference/cli.md, and their meaning never changes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PORT_TAKEN = 3
    STORE_LOCKED = 4
    DOWNLOAD_FAILED = 5
    CHILD_ENDED = 6
    NOT_READY = 7
    MISSING_PROGRAM = 8
    INTERRUPTED = 130


class CommandError(Exception):
    """A command failed; the message is one line for the user."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


def command_error(command: str, error: CommandError | CallboardError | SettingsError) -> CommandError:
    """Turns an error of a shared operation into one of the command; a wrong argument is named by its option."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, SettingsError):
        return CommandError(str(error), ExitCode.USAGE)
    info = error.info
    if info.code is ErrorCode.INVALID_REQUEST and info.param:
        return CommandError(f"--{info.param.replace('_', '-')}: {info.message}", ExitCode.USAGE)
    code = ExitCode.MISSING_PROGRAM if info.code is ErrorCode.UNSUPPORTED else ExitCode.FAILED
    return CommandError(f"{command}: {info.message}", code)


class Interrupted(BaseException):
    """The user stopped the command with Ctrl-C or SIGTERM."""
