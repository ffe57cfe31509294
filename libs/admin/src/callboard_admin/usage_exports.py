"""Usage events as a file that is written piece by piece: CSV or Parquet."""

import csv
import io
from importlib import import_module
from typing import Any, Literal, Protocol

from callboard_admin.usage_records import COLUMNS, NUMBERS, Row
from callboard_contracts.errors import CallboardError, ErrorCode

ExportFormat = Literal["csv", "parquet"]
CONTENT_TYPES: dict[ExportFormat, str] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
ROWS_IN_A_GROUP = 8192
"""So many rows of a Parquet file are kept in memory before they are written."""


class Export(Protocol):
    """A file in the making; both methods compute, so call them off the event loop."""

    def add(self, rows: list[Row]) -> bytes:
        """Takes rows and returns what of the file is ready, which may be nothing."""
        ...

    def finish(self) -> bytes:
        """The rest of the file."""
        ...


def open_export(form: ExportFormat) -> Export:
    """Begins a file; importing what Parquet needs takes a moment.

    Raises:
        CallboardError: `unsupported`: the package for Parquet is not installed.
    """
    return ParquetExport() if form == "parquet" else CsvExport()


class CsvExport:
    """Comma-separated values with a header line, as RFC 4180 has them."""

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._writer = csv.DictWriter(self._text, COLUMNS)
        self._writer.writeheader()

    def add(self, rows: list[Row]) -> bytes:
        """Takes rows and returns them as lines."""
        self._writer.writerows(rows)
        return self.finish()

    def finish(self) -> bytes:
        """What is left: the header where no row came."""
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text.encode()


class _Pipe(io.RawIOBase):
    """What a writer of files writes into, taken out again piece by piece."""

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
    """Apache Parquet, one group of rows after the other."""

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
            [(name, self._arrow.int64() if name in NUMBERS else self._arrow.string()) for name in COLUMNS]
        )
        self._pipe = _Pipe()
        self._writer = parquet.ParquetWriter(self._arrow.PythonFile(self._pipe, mode="w"), self._schema)
        self._rows: list[Row] = []

    def add(self, rows: list[Row]) -> bytes:
        """Takes rows and returns a group of them when it is full."""
        self._rows += rows
        if len(self._rows) >= ROWS_IN_A_GROUP:
            self._write_group()
        return self._pipe.take()

    def finish(self) -> bytes:
        """The last group and the file's footer."""
        if self._rows:
            self._write_group()
        self._writer.close()
        return self._pipe.take()

    def _write_group(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
