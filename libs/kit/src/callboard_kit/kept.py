"""What the stream RESULT keeps of jobs, encrypted."""

from typing import TypeVar

from callboard_contracts.model import Message
from callboard_contracts.streams import RESULT
from callboard_kit.bus import Bus
from callboard_kit.payload_cipher import PayloadUnreadable
from callboard_kit.stream_reads import read_last

M = TypeVar("M", bound=Message)


async def keep(bus: Bus, subject: str, message: Message, msg_id: str, sync_within_s: float = 0.0) -> None:
    """Stores a message, once for each id, with a sync as `Bus.publish_stored` has; raises BusError."""
    payload = await bus.cipher.encrypt(message.encoded())
    await bus.publish_stored(subject, payload, msg_id, sync_within_s=sync_within_s)


async def kept(bus: Bus, subject: str, model: type[M]) -> M | None:
    """The newest message of a subject, or None where there is none that can be read; raises BusError."""
    found = await read_last(bus, RESULT, subject)
    try:
        return model.model_validate_json(await bus.cipher.decrypt(found.data)) if found else None
    except (ValueError, PayloadUnreadable):
        # Its key is erased, or it is of another version.
        return None
