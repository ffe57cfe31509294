"""Callers' slots in the stream SAVES.

The parts of a save are stored first, under a name of their own. Then the tenant's index is changed to name them, by
compare-and-set, and what it named before is purged. The index also names saves that were begun, so that the next save
removes what a process that died has left.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping

from callboard_contracts import subjects
from callboard_contracts.saves import PART_BYTES, SavedIndex, SavedSlot
from callboard_contracts.streams import SAVES
from callboard_edge.domain.saved_slots import Save, SavesFull
from callboard_kit.bucket import EXPECTED_REVISION, WRONG_REVISION
from callboard_kit.bus import Bus, BusError, BusUnavailable, PublishRefused
from callboard_kit.jobs import bus_unavailable
from callboard_kit.stream_reads import read_last

SAVE_TIMEOUT_S = 60.0
ABANDONED_S = 600.0
"""A save that was begun so long ago is finished by nobody."""
MAX_ATTEMPTS = 20
RETRY_S = 0.05
"""The pause before the next try, which also waits for a replica that lags behind."""

Change = Callable[[SavedIndex], SavedIndex]


class BusSavedSlots:
    """See `SavedSlots`; `now` tells Unix seconds."""

    def __init__(self, bus: Bus, max_bytes: int, life_s: float, now: Callable[[], float]) -> None:
        self._bus = bus
        self._max_bytes = max_bytes
        self._life_s = life_s
        self._now = now

    async def titles(self, tenant: str) -> Mapping[int, str]:
        """The titles of a tenant's slots that hold something."""
        try:
            index, _revision = await self._index(tenant)
        except BusError as error:
            raise bus_unavailable() from error
        return {number: slot.title for number, slot in index.slots.items() if self._lives(slot)}

    async def load(self, tenant: str, slot: int) -> Save | None:
        """What a slot holds, or None."""
        try:
            for _ in range(MAX_ATTEMPTS):
                index, _revision = await self._index(tenant)
                found = index.slots.get(slot)
                if found is None or not self._lives(found):
                    return None
                # Parts that are gone were replaced meanwhile.
                if (data := await self._data(tenant, found)) is not None:
                    return Save(found.title, found.format, data)
                await asyncio.sleep(RETRY_S)
        except BusError as error:
            raise bus_unavailable() from error
        raise bus_unavailable()

    async def save(self, tenant: str, slot: int, save: Save) -> None:
        """Puts something into a slot in place of what it held; raises SavesFull."""
        save_id = secrets.token_hex(8)
        try:
            async with asyncio.timeout(SAVE_TIMEOUT_S):
                if await self._used_bytes() + len(save.data) > self._max_bytes:
                    raise SavesFull
                await self._begin(tenant, save_id)
                try:
                    parts = await self._store(tenant, save_id, save.data)
                except PublishRefused as refused:
                    await self._abandon(tenant, save_id)
                    raise SavesFull from refused
                kept = SavedSlot(
                    title=save.title, format=save.format, save_id=save_id, parts=parts, saved_at=self._now()
                )
                await self._replace(tenant, slot, kept)
        except (BusError, TimeoutError) as error:
            raise bus_unavailable() from error

    async def erase(self, tenant: str, slot: int) -> None:
        """Empties a slot."""
        try:
            await self._replace(tenant, slot, None)
        except BusError as error:
            raise bus_unavailable() from error

    def _lives(self, slot: SavedSlot) -> bool:
        return self._now() < slot.saved_at + self._life_s

    async def _used_bytes(self) -> int:
        return int((await self._bus.api(f"STREAM.INFO.{SAVES}", {}))["state"]["bytes"])

    async def _begin(self, tenant: str, save_id: str) -> None:
        now = self._now()

        def change(index: SavedIndex) -> SavedIndex:
            begun = {name: at for name, at in index.unfinished.items() if now < at + ABANDONED_S}
            return index.model_copy(update={"unfinished": {**begun, save_id: now}})

        before, after = await self._change(tenant, change)
        await self._purge(tenant, set(before.unfinished) - set(after.unfinished))

    async def _store(self, tenant: str, save_id: str, data: bytes) -> int:
        parts = range(0, len(data), PART_BYTES)
        for number, start in enumerate(parts):
            subject = subjects.saved_part(tenant, save_id, number)
            await self._bus.publish_stored(subject, data[start : start + PART_BYTES], f"save.{save_id}.{number}")
        return len(parts)

    async def _replace(self, tenant: str, slot: int, kept: SavedSlot | None) -> None:
        def change(index: SavedIndex) -> SavedIndex:
            slots = {number: one for number, one in index.slots.items() if number != slot and self._lives(one)}
            if kept is None:
                return index.model_copy(update={"slots": slots})
            if kept.save_id not in index.unfinished:
                raise BusUnavailable("the save took so long that its parts count as abandoned")
            unfinished = {name: at for name, at in index.unfinished.items() if name != kept.save_id}
            return index.model_copy(update={"slots": {**slots, slot: kept}, "unfinished": unfinished})

        before, after = await self._change(tenant, change)
        named = {one.save_id for one in after.slots.values()}
        await self._purge(tenant, {one.save_id for one in before.slots.values()} - named)

    async def _abandon(self, tenant: str, save_id: str) -> None:
        await self._purge(tenant, {save_id})

        def change(index: SavedIndex) -> SavedIndex:
            left = {name: at for name, at in index.unfinished.items() if name != save_id}
            return index.model_copy(update={"unfinished": left})

        await self._change(tenant, change)

    async def _index(self, tenant: str) -> tuple[SavedIndex, int]:
        found = await read_last(self._bus, SAVES, subjects.saved_index(tenant), stream_may_miss=False)
        return (SavedIndex.model_validate_json(found.data), found.seq) if found else (SavedIndex(), 0)

    async def _change(self, tenant: str, change: Change) -> tuple[SavedIndex, SavedIndex]:
        """Changes the index, again where somebody else changed it meanwhile; returns it as it was and as it is."""
        for _ in range(MAX_ATTEMPTS):
            before, revision = await self._index(tenant)
            after = change(before)
            try:
                await self._bus.publish_stored(
                    subjects.saved_index(tenant), after.encoded(), None, headers={EXPECTED_REVISION: str(revision)}
                )
            except PublishRefused as refused:
                if refused.err_code not in WRONG_REVISION:
                    raise BusUnavailable("the index cannot be changed") from refused
                await asyncio.sleep(RETRY_S)
                continue
            return before, after
        raise BusUnavailable("the index is being changed by others")

    async def _data(self, tenant: str, slot: SavedSlot) -> bytes | None:
        """The parts of a save together; None where one is gone."""
        found = [
            await read_last(self._bus, SAVES, subjects.saved_part(tenant, slot.save_id, number), stream_may_miss=False)
            for number in range(slot.parts)
        ]
        parts = [part.data for part in found if part]
        return b"".join(parts) if len(parts) == slot.parts else None

    async def _purge(self, tenant: str, saves: Iterable[str]) -> None:
        for save_id in saves:
            await self._bus.api(f"STREAM.PURGE.{SAVES}", {"filter": subjects.saved_part(tenant, save_id, "*")})
