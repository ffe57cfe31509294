"""Usage events as a file that is written in pieces: CSV or Parquet."""

import csv
import io
from importlib import import_module
from typing import Any, Literal, Protocol

from callboard_admin.usage_records import COLUMNS, NUMBER_COLUMNS, Row
from callboard_contracts.errors import CallboardError, ErrorCode

ExportFormat = Literal["csv", "parquet"]
CONTENT_TYPES: dict[ExportFormat, str] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
ROWS_PER_GROUP = 8192
"""How many rows of a Parquet file are kept in memory before they are written."""


class Export(Protocol):
    """A file that is being written; both methods are CPU-bound, so call them off the event loop."""

    def add(self, rows: list[Row]) -> bytes:
        """Adds rows and returns the next bytes of the file, which may be none."""
        ...

    def finish(self) -> bytes:
        """Returns the rest of the file."""
        ...


def open_export(form: ExportFormat) -> Export:
    """Starts a file; for Parquet it imports pyarrow, which blocks for a moment.

    Raises:
        CallboardError: `unsupported`: pyarrow is not installed.
    """
    return ParquetExport() if form == "parquet" else CsvExport()


class CsvExport:
    """Comma-separated values with a header line (RFC 4180)."""

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._writer = csv.DictWriter(self._text, COLUMNS)
        self._writer.writeheader()

    def add(self, rows: list[Row]) -> bytes:
        """Adds rows and returns them as lines."""
        self._writer.writerows(rows)
        return self.finish()

    def finish(self) -> bytes:
        """Returns the rest: the header if there were no rows."""
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text.encode()


class _Buffer(io.RawIOBase):
    """An append-only file whose content is taken out in pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, piece: Any, /) -> int:
        self._pieces.append(bytes(piece))
        self._position += len(self._pieces[-1])
        return len(self._pieces[-1])

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


class ParquetExport:
    """Apache Parquet, written by row groups."""

    def __init__(self) -> None:
        try:
            self._arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        except ImportError:
            raise CallboardError(
                ErrorCode.UNSUPPORTED,
                "Parquet needs the Python package pyarrow, which is not installed",
                param="format",
            ) from None
        self._schema = self._arrow.schema(
            [(name, self._arrow.int64() if name in NUMBER_COLUMNS else self._arrow.string()) for name in COLUMNS]
        )
        self._buffer = _Buffer()
        self._writer = parquet.ParquetWriter(self._arrow.PythonFile(self._buffer, mode="w"), self._schema)
        self._rows: list[Row] = []

    def add(self, rows: list[Row]) -> bytes:
        """Adds rows and returns a row group whenever one is full."""
        self._rows += rows
        if len(self._rows) >= ROWS_PER_GROUP:
            self._write_group()
        return self._buffer.take()

    def finish(self) -> bytes:
        """Returns the last row group and the footer."""
        if self._rows:
            self._write_group()
        self._writer.close()
        return self._buffer.take()

    def _write_group(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
