"""Has quota put its counters right once the machine was started again, since a power cut may have lost the newest."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from callboard_admin.usage_records import UsageRecords
from callboard_cli.up.store_check import RECORD
from callboard_contracts.errors import CallboardError
from callboard_kit.bus import Bus, BusError
from callboard_kit.bus_credentials import write_private

log = logging.getLogger(__name__)

STATE = "machine_start.json"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Another text after each start of the machine."""
OPEN_HOURS_S = 2 * 3600.0
"""So long before the last sign of life a hold may have been taken whose counters changed then."""
RETRY_S = 10.0


class RestartRepair:
    """Remembers, beside the bus's store, on which start of the machine the site ran, and whether a repair is due."""

    def __init__(self, folder: Path, boot_id: Path = BOOT_ID) -> None:
        self._state = folder / STATE
        self._record = folder / RECORD
        self._boot_id = boot_id

    def due_since(self) -> float | None:
        """The Unix time since which counters have to be compared, or None; call it before the store is recorded."""
        known = self._read()
        now_id = self._now_id()
        found = known.get("since")
        since = found if isinstance(found, float) else None
        if since is None and (not now_id or known.get("boot_id") != now_id):
            since = self._last_recorded_at()
        self._write(now_id, since)
        return since

    async def run(self, bus: Bus, since: float, tell: Callable[[str], None]) -> None:
        """Asks quota again and again until it has put the counters right; `tell` is for the operator."""
        while True:
            try:
                reply = await UsageRecords(bus).verify(since - OPEN_HOURS_S, repair=True)
                break
            except (BusError, CallboardError) as error:
                log.warning("counters_not_repaired", extra={"reason": str(error)})
            await asyncio.sleep(RETRY_S)
        if reply.corrected_count:
            tell(f"quota: {reply.corrected_count} counters corrected after the machine's restart")
        if reply.drift_count:
            tell(f"quota: {reply.drift_count} counters still differ; see callboard usage verify")
        # What still differs is looked at again when the site is started next.
        await asyncio.to_thread(self._write, self._now_id(), since if reply.drift_count else None)

    def _now_id(self) -> str:
        """The present start of the machine; empty where it cannot be told, and each start of the site counts."""
        try:
            return self._boot_id.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    def _last_recorded_at(self) -> float | None:
        try:
            return self._record.stat().st_mtime
        except OSError:
            return None

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, boot_id: str, since: float | None) -> None:
        try:
            write_private(self._state, json.dumps({"boot_id": boot_id, "since": since}))
        except OSError as error:
            # A repair more at the next start does no harm; a site that ends over it would.
            log.warning("machine_start_unrecorded", extra={"reason": type(error).__name__})
