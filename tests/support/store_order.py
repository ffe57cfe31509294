"""What must be on the disk before what, looked for in a store after a power cut, before any service runs on it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from callboard_contracts.chat import ChatJob, ChatResult
from callboard_contracts.kept import KeptGroup
from callboard_contracts.model import Message
from callboard_contracts.quota import AuditEvent, Hold, UsageEvent
from callboard_contracts.streams import AUDIT, CHAT, LEASE, QUOTA, RESULT, USAGE
from callboard_kit.bus import Bus
from callboard_kit.payload_cipher import PayloadUnreadable
from callboard_kit.stream_reads import StoredMessage, read_subject

MOST_MESSAGES = 1_000_000
READ_TIMEOUT_S = 20.0
ENDINGS = frozenset({"settled", "released", "expired"})
TRANSACTION = "kudos"

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store has: jobs and results by their request, ids of holds by what tells of them, and usage events."""

    jobs: dict[str, ChatJob]
    results: dict[str, ChatResult]
    groups: dict[str, KeptGroup]
    """The jobs of polled requests, by their ids."""
    unreadable: tuple[str, ...]
    leased: frozenset[str]
    outcomes: tuple[AuditEvent, ...]
    usage: dict[str, list[UsageEvent]]
    ended_by_counters: frozenset[str]
    """The holds that counters have taken note of the end of."""

    def faults(self) -> list[str]:
        """What is on the disk without that which had to be there before; a line for each."""
        ended = {outcome.hold_id.removesuffix(".late") for outcome in self.outcomes}
        held = self.leased | ended
        faults = [f"{payload} has no key" for payload in self.unreadable]
        faults += [f"job {name} has no lease" for name, job in self.jobs.items() if _lacks(job.hold, held)]
        faults += [
            f"usage of {name} has no lease" for name, events in self.usage.items() if _lacks(events[0].hold, held)
        ]
        faults += [f"usage of {name} is there twice" for name, events in self.usage.items() if len(events) > 1]
        faults += [
            f"settled {outcome.request_id} has no usage"
            for outcome in self.outcomes
            if outcome.kind == "settled" and outcome.request_id not in self.usage
        ]
        # Counters take back a refused hold too, which has no outcome.
        granted = {events[0].hold.id for events in self.usage.values() if events[0].hold is not None}
        unended = (self.ended_by_counters & granted) - ended
        faults += [f"counters end hold {hold}, which has no outcome" for hold in sorted(unended)]
        return faults

    def lost_groups(self, names: Iterable[str]) -> list[str]:
        """Those of some polled requests that are lost themselves, or that have a job which is."""
        found = {name: self.groups.get(name) for name in names}
        return [name for name, group in found.items() if group is None or self.lost(group.job_ids)]

    def without_result(self, names: Iterable[str]) -> list[str]:
        """Those of some polled requests with a job of which neither the result nor the job itself is left."""
        kept = self.results.keys() | self.jobs.keys()
        return [name for name in names if not kept.issuperset(self.groups[name].job_ids)]

    def lost(self, request_ids: Iterable[str]) -> list[str]:
        """Those of some requests of which neither the job nor its usage is left."""
        return [name for name in request_ids if name not in self.jobs and name not in self.usage]


async def read_store(bus: Bus) -> Stored:
    """Reads a store; raises BusError."""
    jobs: dict[str, ChatJob] = {}
    results: dict[str, ChatResult] = {}
    unreadable: list[str] = []
    for message in await _read(bus, CHAT, "job.chat.>"):
        if (job := await _decrypted(bus, message, ChatJob, unreadable)) is not None:
            jobs[job.request_id] = job
    for message in await _read(bus, RESULT, "result.*"):
        if (result := await _decrypted(bus, message, ChatResult, unreadable)) is not None:
            results[result.request_id] = result
    groups: dict[str, KeptGroup] = {}
    for message in await _read(bus, RESULT, "name.*"):
        if (group := await _decrypted(bus, message, KeptGroup, unreadable)) is not None:
            groups[group.request_id] = group
    usage: dict[str, list[UsageEvent]] = {}
    for message in await _read(bus, USAGE, "usage.*"):
        event = UsageEvent.model_validate_json(message.data)
        usage.setdefault(event.request_id, []).append(event)
    outcomes = [AuditEvent.model_validate_json(message.data) for message in await _read(bus, AUDIT, "audit.*")]
    steps = [message.headers.get("Nats-Msg-Id", "") for message in await _read(bus, QUOTA, "q.used.>")]
    return Stored(
        jobs,
        results,
        groups,
        tuple(unreadable),
        frozenset(message.subject.rsplit(".", 1)[-1] for message in await _read(bus, LEASE, "lease.*.*")),
        tuple(one for one in outcomes if one.kind in ENDINGS and one.work != TRANSACTION),
        usage,
        frozenset(hold for hold, _, step in (one.rpartition(".") for one in steps) if step[:1] in {"s", "l"}),
    )


async def _read(bus: Bus, stream: str, subject: str) -> list[StoredMessage]:
    found = await read_subject(
        bus, stream, subject, limit=MOST_MESSAGES, timeout_s=READ_TIMEOUT_S, stream_may_miss=False
    )
    return [message for message in found if message.data or stream == QUOTA]


async def _decrypted(bus: Bus, message: StoredMessage, model: type[M], unreadable: list[str]) -> M | None:
    try:
        return model.model_validate_json(await bus.cipher.decrypt(message.data))
    except PayloadUnreadable:
        unreadable.append(message.subject)
        return None


def _lacks(hold: Hold | None, held: frozenset[str]) -> bool:
    return hold is not None and hold.id not in held
