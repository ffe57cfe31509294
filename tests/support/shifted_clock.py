"""Runs one of Callboard's modules on a machine whose clock is wrong, or against a bus whose clock is set back.

`SHIFTED_MODULE` names the module and `SHIFT_S` says how far the machine's clock is ahead. The file that
`BUS_SHIFT_FILE` names, if any, holds how far what the bus tells of its time is shifted.
"""

import os
import runpy
import time
from pathlib import Path

from callboard_kit import bus_clock
from callboard_kit.bus import Bus


def main() -> None:
    """Shifts the clocks and runs the module, whose arguments are this process's."""
    machine_time, shift_s = time.time, float(os.environ.get("SHIFT_S", "0"))
    time.time = lambda: machine_time() + shift_s
    bus_clock.BusClock.__init__.__defaults__ = (time.time, time.monotonic)
    if file := os.environ.get("BUS_SHIFT_FILE"):
        _shift_bus(Path(file))
    runpy.run_module(os.environ["SHIFTED_MODULE"], run_name="__main__")


def _shift_bus(file: Path) -> None:
    bus_time = Bus._time  # pyright: ignore[reportPrivateUsage]

    async def shifted(bus: Bus) -> float:
        return await bus_time(bus) + float(file.read_text(encoding="utf-8"))

    Bus._time = shifted  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    bus_clock.MEASURE_INTERVAL_S = bus_clock.CHECK_INTERVAL_S = 0.1


if __name__ == "__main__":
    main()
