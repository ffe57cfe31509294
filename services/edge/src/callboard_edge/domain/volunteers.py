"""The volunteers of the site as one edge knows them, and what it notes of their work."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.volunteers import (
    MAX_DROPS_PER_HOUR,
    MAX_SUSPICIONS_PER_HOUR,
    ONLINE_S,
    VolunteerRecord,
    volunteer_id,
)

log = logging.getLogger(__name__)

SEEN_INTERVAL_S = 60.0
"""How often it is noted that a volunteer is there."""
FLUSH_INTERVAL_S = 1.0
HOUR_S = 3600.0
MAX_KEPT = 64
"""So many times of drops and suspicions are kept, which is more than either limit."""
_SAID = (
    "models",
    "max_length",
    "max_context_length",
    "threads",
    "nsfw",
    "bridge_agent",
    "extra_slow",
    "needs_kudos",
    "softprompts",
)
DROPPED = "Too many jobs were dropped in an hour."

Change = Callable[[VolunteerRecord], VolunteerRecord]
OnSeen = Callable[[VolunteerRecord, VolunteerRecord, Callable[[int], None]], None]


class NameTaken(Exception):  # noqa: N818 - a state, not a failure
    """The name belongs to another account."""


class TooManyVolunteers(Exception):  # noqa: N818 - a limit
    """The account has as many volunteers as it may."""


class VolunteerStore(Protocol):
    """Where the records are kept; every method raises CallboardError: `bus_unavailable` if they cannot be reached."""

    async def change(self, worker_id: str, change: Change, new: VolunteerRecord | None = None) -> VolunteerRecord:
        """Changes the newest version of a record, or `new` where there is none."""
        ...

    async def remove(self, worker_id: str) -> None:
        """Forgets a record."""
        ...


@dataclass(frozen=True, slots=True)
class SignIn:
    """What a volunteer says of itself with a pop."""

    name: str
    account: str
    models: tuple[str, ...]
    max_length: int
    max_context_length: int
    threads: int
    nsfw: bool
    bridge_agent: str
    extra_slow: bool = False
    needs_kudos: bool = False
    softprompts: tuple[str, ...] = ()

    def fields(self) -> dict[str, object]:
        """What goes into the record as it was said."""
        return {name: getattr(self, name) for name in _SAID}


@dataclass(slots=True)
class Noted:
    """What is to be added to a volunteer's record; the lists are Unix times."""

    fulfilled: int = 0
    tokens: int = 0
    seconds: float = 0.0
    reward: int = 0
    uptime_reward: int = 0
    drops: list[float] = field(default_factory=list[float])
    suspicions: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])

    def add(self, other: "Noted") -> None:
        """Takes in what was noted before."""
        self.fulfilled += other.fulfilled
        self.tokens += other.tokens
        self.seconds += other.seconds
        self.reward += other.reward
        self.uptime_reward += other.uptime_reward
        self.drops = [*other.drops, *self.drops][-MAX_KEPT:]
        self.suspicions = [*other.suspicions, *self.suspicions][-MAX_KEPT:]


class Volunteers:
    """The records of all volunteers; `now` tells the Unix time. Without a `store` the site has none.

    `on_seen` learns of each volunteer whose being there is noted, by its record before and after, and is given what
    takes in its pay for that.
    """

    def __init__(
        self,
        store: VolunteerStore | None,
        now: Callable[[], float],
        most_per_account: int = 20,
        on_seen: OnSeen = lambda _before, _after, _paid: None,
    ) -> None:
        self._on_seen = on_seen
        self._store = store
        self._now = now
        self._most_per_account = most_per_account
        self._records: dict[str, VolunteerRecord] = {}
        self._by_model: dict[str, dict[str, VolunteerRecord]] = {}
        self._noted: dict[str, Noted] = {}
        self._signing_in: dict[str, str] = {}
        """The accounts of new volunteers whose records are being written, by their ids."""

    def take(self, record: VolunteerRecord) -> None:
        """Takes in a record as it stands."""
        self.forget(record.id)
        self._records[record.id] = record
        for model in record.models:
            self._by_model.setdefault(model, {})[record.id] = record

    def forget(self, worker_id: str) -> None:
        """Takes in that a record is gone."""
        record = self._records.pop(worker_id, None)
        for model in record.models if record else ():
            of_model = self._by_model.get(model, {})
            of_model.pop(worker_id, None)
            if not of_model:
                self._by_model.pop(model, None)

    def keep_only(self, worker_ids: Iterable[str]) -> None:
        """Forgets all records but these."""
        for worker_id in self._records.keys() - set(worker_ids):
            self.forget(worker_id)

    def get(self, worker_id: str) -> VolunteerRecord | None:
        """The record of an id, or None."""
        return self._records.get(worker_id)

    def online(self) -> list[VolunteerRecord]:
        """Those that have lately asked for work."""
        now = self._now()
        return [record for record in self._records.values() if record.is_online(now)]

    def offering(self, *names: str) -> list[VolunteerRecord]:
        """Those that are there and write with a model of any of these names."""
        now = self._now()
        found = {record.id: record for name in names for record in self._by_model.get(name, {}).values()}
        return [one for one in found.values() if one.is_online(now) and not (one.maintenance or one.paused)]

    def of_account(self, account: str) -> list[VolunteerRecord]:
        """Those of one owner, the one seen last first."""
        own = (record for record in self._records.values() if record.account == account)
        return sorted(own, key=lambda record: -record.seen_at)

    async def sign_in(self, said: SignIn) -> VolunteerRecord:
        """Notes that a volunteer is there, and returns its record; a new name becomes the account's.

        Raises:
            NameTaken: the name is another account's.
            TooManyVolunteers: the account has as many as it may.
            CallboardError: the record cannot be written.
        """
        worker_id, now = volunteer_id(said.name), self._now()
        assert self._store is not None
        known = self._records.get(worker_id)
        if known is not None:
            if known.account != said.account:
                raise NameTaken
            same = all(getattr(known, name) == value for name, value in said.fields().items())
            if same and 0 <= now - known.seen_at < SEEN_INTERVAL_S:
                return known
        elif self._too_many(worker_id, said.account):
            raise TooManyVolunteers
        new = before = VolunteerRecord(id=worker_id, name=said.name, account=said.account, created_at=now, seen_at=now)

        def seen(record: VolunteerRecord) -> VolunteerRecord:
            nonlocal before
            before = record
            if record.account != said.account:
                raise NameTaken
            since_s = max(0.0, now - record.seen_at)
            return record.model_copy(
                update={
                    **said.fields(),
                    "seen_at": max(now, record.seen_at),
                    "uptime_s": round(record.uptime_s + (since_s if since_s < ONLINE_S else 0.0), 1),
                }
            )

        if known is None:
            self._signing_in[worker_id] = said.account
        try:
            record = await self._store.change(worker_id, seen, new)
        finally:
            self._signing_in.pop(worker_id, None)
        self.take(record)
        self._on_seen(before, record, partial(self._paid, worker_id))
        return record

    def _too_many(self, worker_id: str, account: str) -> bool:
        """Whether a new volunteer would be one too many of its account, those counted that sign in meanwhile."""
        own = {record.id for record in self._records.values() if record.account == account}
        own |= {other for other, owner in self._signing_in.items() if owner == account}
        return len(own - {worker_id}) >= self._most_per_account

    async def change(self, worker_id: str, change: Change) -> VolunteerRecord:
        """Changes a record; raises CallboardError."""
        assert self._store is not None
        record = await self._store.change(worker_id, change)
        self.take(record)
        return record

    async def remove(self, worker_id: str) -> None:
        """Forgets a volunteer; its name is free then. Raises CallboardError."""
        assert self._store is not None
        await self._store.remove(worker_id)
        self._noted.pop(worker_id, None)
        self.forget(worker_id)

    def fulfilled(self, worker_id: str, tokens: int, seconds: float, reward: int) -> None:
        """Notes a text."""
        noted = self._note(worker_id)
        noted.fulfilled += 1
        noted.tokens += tokens
        noted.seconds += seconds
        noted.reward += reward

    def dropped(self, worker_id: str, count: int = 1) -> None:
        """Notes jobs that a volunteer gave back, or had for too long."""
        noted = self._note(worker_id)
        noted.drops += [self._now()] * min(count, MAX_KEPT)

    def suspected(self, worker_id: str, reasons: Sequence[str]) -> None:
        """Notes that a text looks false."""
        self._note(worker_id).suspicions += [(self._now(), reason) for reason in reasons]

    async def run(self) -> None:
        """Writes what is noted, for as long as the process runs."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Writes what is noted; what cannot be written stays noted."""
        now = self._now()
        if self._store is None:
            return
        for worker_id, noted in list(self._noted.items()):
            del self._noted[worker_id]
            try:
                self.take(await self._store.change(worker_id, partial(with_noted, noted=noted, now=now)))
            except CallboardError as error:
                if error.info.code is ErrorCode.NOT_FOUND:
                    # Its owner has deleted it.
                    continue
                log.warning("volunteer_not_noted", extra={"worker": worker_id, "code": error.info.code.value})
                later = self._noted.setdefault(worker_id, noted)
                if later is not noted:
                    later.add(noted)
                return

    def _paid(self, worker_id: str, amount: int) -> None:
        self._note(worker_id).uptime_reward += amount

    def _note(self, worker_id: str) -> Noted:
        return self._noted.setdefault(worker_id, Noted())


def with_noted(record: VolunteerRecord, noted: Noted, now: float) -> VolunteerRecord:
    """A record with what is noted; too many drops set the volunteer into maintenance, too many suspicions pause it."""
    drops = _of_last_hour((*record.drops, *noted.drops), now)
    suspicions = _of_last_hour((*record.suspicions, *(at for at, _ in noted.suspicions)), now)
    suspected = dict(record.suspected)
    for _, reason in noted.suspicions:
        suspected[reason] = suspected.get(reason, 0) + 1
    changed: dict[str, object] = {
        "fulfilled": record.fulfilled + noted.fulfilled,
        "dropped": record.dropped + len(noted.drops),
        "tokens": record.tokens + noted.tokens,
        "seconds": round(record.seconds + noted.seconds, 3),
        "reward": record.reward + noted.reward,
        "uptime_reward": record.uptime_reward + noted.uptime_reward,
        "drops": drops,
        "suspicions": suspicions,
        "suspected": suspected,
    }
    if noted.drops and len(drops) > MAX_DROPS_PER_HOUR:
        # Once its owner ends the maintenance, the count begins anew.
        changed |= {"maintenance": True, "maintenance_message": DROPPED, "drops": ()}
    if noted.suspicions and len(suspicions) > MAX_SUSPICIONS_PER_HOUR:
        changed |= {"paused": True, "suspicions": ()}
    return record.model_copy(update=changed)


def _of_last_hour(times: Iterable[float], now: float) -> tuple[float, ...]:
    return tuple(at for at in times if now - at < HOUR_S)[-MAX_KEPT:]
