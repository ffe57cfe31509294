"""How commands fail: one line on standard error and an exit code that says which kind of trouble it was."""

from enum import IntEnum

from callboard_contracts.errors import CallboardError, ErrorCode


class ExitCode(IntEnum):
    """The exit codes of `callboard`; they are documented in docs/reference/cli.md and never change their meaning."""

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
    """A command cannot go on; the message is one line for the user."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


def command_error(command: str, error: CallboardError) -> CommandError:
    """What a shared operation reports, as the command's user is told it: a wrong option by its name."""
    info = error.info
    if info.code is ErrorCode.INVALID_REQUEST and info.param:
        return CommandError(f"--{info.param.replace('_', '-')}: {info.message}", ExitCode.USAGE)
    code = ExitCode.MISSING_PROGRAM if info.code is ErrorCode.UNSUPPORTED else ExitCode.FAILED
    return CommandError(f"{command}: {info.message}", code)


class Interrupted(BaseException):
    """The user asked the command to stop, with Ctrl-C or SIGTERM."""
