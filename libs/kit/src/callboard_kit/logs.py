"""JSON logs: one line for each event, with a fixed event name and ids as fields."""

import json
import logging
import sys
import time
from typing import Any, TextIO

from pydantic_core import PydanticSerializationError, to_json

from callboard_kit import tracing

PACKAGES = tuple(
    f"callboard_{part}"
    for part in ("admin", "chat", "cli", "contracts", "edge", "kit", "quota", "rooms", "stt", "tts", "worker")
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; fields given as `extra` become keys beside the event."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service
        self._second = 0
        self._text_of_second = ""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as one line without a line break."""
        line: dict[str, Any] = {
            "time": f"{self._date(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": _event(record),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        line.update(tracing.ids() or {})
        if record.exc_info and record.exc_info[0]:
            # The text of an exception may quote what a client sent, so only its type and traceback are logged.
            line["exception"] = record.exc_info[0].__name__
            line["at"] = _frames(record.exc_info[2])
        try:
            return to_json(line, fallback=str).decode()
        except PydanticSerializationError:
            # Half a surrogate pair, such as a broken client sends, has no form in UTF-8.
            return json.dumps(line, default=str)

    def _date(self, second: int) -> str:
        if second != self._second:
            self._second, self._text_of_second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return self._text_of_second


class _LineHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream that goes out by the line, as standard error does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record."""
        try:
            self.stream.write(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)


def _event(record: logging.LogRecord) -> str:
    """The event of one of our own records; a library's text may hold addresses and contents, so its place stands in."""
    if record.name.partition(".")[0] in PACKAGES:
        return record.getMessage()
    return f"library_message at {record.module}:{record.lineno}"


def _frames(traceback: Any) -> list[str]:
    frames: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames[-6:]


def setup_logs(service: str, level: str) -> None:
    """Sends logs to standard error as JSON lines; libraries log only warnings and errors."""
    # No line names threads and processes, and looking them up costs a call of the system.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _LineHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level.upper())
