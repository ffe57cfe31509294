"""What callers keep in their slots, as the stream SAVES has it: an index for each tenant, and parts of each save."""

from pydantic import Field

from callboard_contracts.model import Message

SLOTS = 12
"""How many slots a tenant has."""
MAX_SAVE_BYTES = 10 * 1024 * 1024
"""The most that one slot holds."""
PART_BYTES = 512 * 1024
"""The length of a part; the last may be shorter."""


class SavedSlot(Message):
    """One slot: a title and a form for the client's own eyes, and where the parts are; times are Unix seconds."""

    title: str
    format: str
    save_id: str
    parts: int
    saved_at: float


class SavedIndex(Message):
    """A tenant's slots by their number, and the saves that were begun and not finished, with their times."""

    slots: dict[int, SavedSlot] = Field(default_factory=dict)
    unfinished: dict[str, float] = Field(default_factory=dict)
