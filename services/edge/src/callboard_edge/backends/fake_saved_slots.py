"""Slots in memory."""

from collections.abc import Mapping

from callboard_edge.domain.saved_slots import Save, SavesFull


class FakeSavedSlots:
    """See `SavedSlots`; `max_bytes` is what all slots may hold together."""

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self._slots: dict[tuple[str, int], Save] = {}

    async def titles(self, tenant: str) -> Mapping[int, str]:
        """The titles of a tenant's slots that hold something."""
        return {slot: save.title for (owner, slot), save in self._slots.items() if owner == tenant}

    async def load(self, tenant: str, slot: int) -> Save | None:
        """What a slot holds, or None."""
        return self._slots.get((tenant, slot))

    async def save(self, tenant: str, slot: int, save: Save) -> None:
        """Puts something into a slot in place of what it held; raises SavesFull."""
        if sum(len(one.data) for one in self._slots.values()) + len(save.data) > self.max_bytes:
            raise SavesFull
        self._slots[tenant, slot] = save

    async def erase(self, tenant: str, slot: int) -> None:
        """Empties a slot."""
        self._slots.pop((tenant, slot), None)
