"""Whether the bus's store came back as it was left, and what is missing.

The server says little about what it could not read, and nothing at all of messages that are missing after a crash. So
`up` writes down now and then, and when it stops, how far each stream had come, and compares at the next start.
"""

import asyncio
import json
import logging
import math
import re
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from callboard_contracts.config import Config
from callboard_contracts.streams import (
    AUDIT,
    KUDOS,
    NANOSECONDS_PER_S,
    QUOTA,
    TRANSFERS,
    USAGE,
    buckets,
    streams,
)
from callboard_kit.bus import ApiError, Bus, BusError
from callboard_kit.bus_credentials import write_private
from callboard_kit.provisioning import NOT_FOUND

log = logging.getLogger(__name__)

RECORD = "streams.json"
RECORD_INTERVAL_S = 30.0
RECORD_TIMEOUT_S = 5.0
LASTING = frozenset({USAGE, QUOTA, KUDOS, TRANSFERS, AUDIT})
"""Streams from which only age removes messages."""
META_FILES = ("meta.inf", "meta.sum")
DAMAGED_SUFFIX = ".damaged"
AGE_MARGIN_S = 60.0
FRACTION = re.compile(r"\.\d+")


@dataclass(frozen=True, slots=True)
class StreamState:
    """How far a stream had come; `first_at` is the Unix time of its oldest message."""

    messages: int
    last_seq: int
    first_at: float


class StoreCheck:
    """Compares the streams that the bus found in its store with those that were there before."""

    def __init__(self, bus: Bus, config: Config, folder: Path) -> None:
        self._bus = bus
        specs = [spec.config(1) for spec in (*streams(config), *buckets())]
        self._life_s: dict[str, float] = {
            spec["name"]: spec.get("max_age", 0) / NANOSECONDS_PER_S or math.inf
            for spec in specs
            if spec["storage"] == "file"
        }
        """How long the messages of each stream on disk are kept."""
        self._store = folder / "store" / "jetstream" / "$G" / "streams"
        self._record = folder / RECORD

    async def find_losses(self) -> list[str]:
        """Returns a line for each stream that is damaged; call it before streams are declared.

        The description of a stream that the server could not read is put aside, so that declaring the stream takes
        over the messages that are still there.
        """
        before = await asyncio.to_thread(self._read)
        losses: list[str] = []
        for name, life_s in self._life_s.items():
            state = await self._state(name)
            if state is None:
                if await asyncio.to_thread(self._set_description_aside, name):
                    losses.append(f"the description of the stream {name} could not be read and is made anew")
                elif name in before and before[name].messages:
                    losses.append(f"the stream {name} is missing, which had {before[name].messages} messages")
            elif name in before and (lost := _lost(name, before[name], state, life_s)):
                losses.append(f"the stream {name} has lost {lost} of its {before[name].messages} messages")
        return losses

    async def keep_record(self) -> None:
        """Writes down the state of the streams again and again, until cancelled."""
        while True:
            await self.record()
            await asyncio.sleep(RECORD_INTERVAL_S)

    async def record(self) -> None:
        """Writes down the state of the streams."""
        states: dict[str, dict[str, float]] = {}
        try:
            async with asyncio.timeout(RECORD_TIMEOUT_S):
                for name in self._life_s:
                    if (state := await self._state(name)) is not None:
                        states[name] = asdict(state)
                # What is written down must not be missing after a power cut.
                await self._bus.on_disk(*states)
            await asyncio.to_thread(write_private, self._record, json.dumps(states))
        except (BusError, OSError, TimeoutError) as error:
            log.warning("stream_states_unrecorded", extra={"reason": type(error).__name__})

    async def _state(self, name: str) -> StreamState | None:
        try:
            state = (await self._bus.api(f"STREAM.INFO.{name}", {}))["state"]
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            return None
        return StreamState(state["messages"], state["last_seq"], _unix_time(state["first_ts"]))

    def _read(self) -> dict[str, StreamState]:
        try:
            return {name: StreamState(**state) for name, state in json.loads(self._record.read_text()).items()}
        except (OSError, ValueError, TypeError):
            return {}

    def _set_description_aside(self, name: str) -> bool:
        found = [path for file in META_FILES if (path := self._store / name / file).exists()]
        for path in found:
            path.rename(path.with_name(path.name + DAMAGED_SUFFIX))
        return bool(found) or (self._store / name).exists()


def _lost(name: str, before: StreamState, now: StreamState, life_s: float) -> int:
    """How many messages are certainly missing.

    A sequence number never goes back, whatever was deleted or expired. Where neither can be, the numbers must add up.
    """
    tail = max(0, before.last_seq - now.last_seq)
    if name not in LASTING or before.messages == 0 or before.first_at + life_s < time.time() + AGE_MARGIN_S:
        return tail
    return max(tail, before.messages + now.last_seq - before.last_seq - now.messages)


def _unix_time(text: str) -> float:
    """The Unix time of a timestamp of the server, whose fraction of a second is left out."""
    return datetime.fromisoformat(FRACTION.sub("", text).replace("Z", "+00:00")).timestamp()
