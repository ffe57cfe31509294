"""How a measurement goes, while it runs: one line that is redrawn on a terminal, plain lines anywhere else."""

import asyncio
import shutil
import sys
import time
from typing import TextIO

from callboard_cli.bench.load import Load
from callboard_cli.bench.measurement import Measurement
from callboard_cli.bench.statistics import middle
from callboard_cli.bench.tables import NAMES, milliseconds
from callboard_cli.models.progress import CLEAR_LINE

REDRAW_S = 0.25
LINE_S = 5.0
RECENT = 200
"""A median of more would cost the generator time."""


class Live:
    """Tells on standard error, so that tables and JSON stay alone on standard output."""

    def __init__(self, measurement: Measurement, stream: TextIO = sys.stderr) -> None:
        self._measurement = measurement
        self._stream = stream
        self._redraws = stream.isatty()

    async def run(self) -> None:
        """Tells until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(REDRAW_S if self._redraws else LINE_S)
                if self._measurement.loads:
                    self._tell()
        finally:
            if self._redraws:
                self._write(CLEAR_LINE)

    def _tell(self) -> None:
        work = self._measurement.loads[-1].work
        loads = [load for load in self._measurement.loads if load.work == work]
        line = f"{time.monotonic() - self._measurement.begun_s:5.0f} s  {work}  " + "   ".join(map(_told, loads))
        self._write(f"{CLEAR_LINE}{line[: shutil.get_terminal_size().columns - 1]}" if self._redraws else f"{line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _told(load: Load) -> str:
    recent = [one.to_first_s for one in load.samples[-RECENT:] if one.failure is None and one.to_first_s is not None]
    failed = sum(one.failure is not None for one in load.samples)
    state = "warming up" if load.warming else f"{len(load.samples)} of {load.plan.requests} done"
    first = f", first {milliseconds(middle(recent))} ms" if recent else ""
    errors = f", {failed} failed" if failed else ""
    return f"{NAMES[load.target.number]}: {state}, {load.under_way} under way{first}{errors}"
