"""The records of volunteers on the bus, as the edge changes them."""

from callboard_admin.volunteer_records import Change, VolunteerRecords
from callboard_contracts.volunteers import VolunteerRecord
from callboard_kit.bus import Bus, BusError
from callboard_kit.jobs import bus_unavailable


class BusVolunteerStore:
    """Records in the bucket; see `VolunteerStore`."""

    def __init__(self, bus: Bus) -> None:
        self._records = VolunteerRecords.on(bus)

    async def change(self, worker_id: str, change: Change, new: VolunteerRecord | None = None) -> VolunteerRecord:
        """Changes the newest version of a record, or `new` where there is none."""
        try:
            return await self._records.change(worker_id, change, new)
        except BusError as error:
            raise bus_unavailable() from error

    async def remove(self, worker_id: str) -> None:
        """Forgets a record."""
        try:
            await self._records.remove(worker_id)
        except BusError as error:
            raise bus_unavailable() from error
