"""What callers keep on the server in numbered slots."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Save:
    """What a slot holds: a title, the name of a form, and data that only the client understands."""

    title: str
    format: str
    data: bytes


class SavesFull(Exception):  # noqa: N818 - a state, not a failure
    """All callers together have saved as much as the site allows."""


class SavedSlots(Protocol):
    """The slots of all tenants; a save is seen whole or not at all.

    Every method raises CallboardError where the bus fails.
    """

    async def titles(self, tenant: str) -> Mapping[int, str]:
        """The titles of a tenant's slots that hold something."""
        ...

    async def load(self, tenant: str, slot: int) -> Save | None:
        """What a slot holds, or None."""
        ...

    async def save(self, tenant: str, slot: int, save: Save) -> None:
        """Puts something into a slot in place of what it held; raises SavesFull."""
        ...

    async def erase(self, tenant: str, slot: int) -> None:
        """Empties a slot."""
        ...
