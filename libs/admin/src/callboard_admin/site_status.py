"""How an installation stands at a moment: pools, workers, consumers, streams and holds."""

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.config import Config
from callboard_contracts.jobs import Service
from callboard_contracts.model import Message
from callboard_contracts.quota import Hold
from callboard_contracts.streams import (
    BUCKET_WORKERS,
    DLQ,
    JOB_STREAMS,
    LEASE,
    ConsumerSpec,
    buckets,
    consumer_name,
    consumers,
    streams,
)
from callboard_contracts.workers import ProcessRecord, WorkerInfo
from callboard_kit.bucket import Bucket
from callboard_kit.bus import ApiError, Bus
from callboard_kit.stream_reads import read_batches

NOT_FOUND = 404
HOLDS_PER_READ = 500

JOB_CLASSES: tuple[subjects.JobClass, subjects.JobClass] = ("live", "batch")

M = TypeVar("M", bound=Message)


class PoolStatus(Message):
    """One pool: its workers, their slots, and its jobs.

    `running` counts the jobs that a worker has, or had when it died. `oldest_job_s` is how long the oldest job has been
    in the queue, whether a worker has it or not; `oldest_waiting_s` is how long the oldest waits that none has.
    """

    service: Service
    pool: str
    workers: int
    ready: int
    draining: int
    slots: int
    slots_used: int
    waiting_live: int
    waiting_batch: int
    running: int
    oldest_job_s: float | None
    oldest_waiting_s: float | None


class ConsumerStatus(Message):
    """One durable consumer; `missing` where it is declared and not there, `declared` false for one of an old pool."""

    stream: str
    name: str
    waiting: int = 0
    unacknowledged: int = 0
    redelivered: int = 0
    open_pulls: int = 0
    max_ack_pending: int = 0
    delivered_seq: int = 0
    declared: bool = True
    missing: bool = False


class StreamStatus(Message):
    """One stream; `max_bytes` is None where it has no bound."""

    name: str
    messages: int = 0
    bytes: int = 0
    max_bytes: int | None = None
    memory: bool = False
    oldest_s: float | None = None
    leader: str | None = None
    replicas: int = 1
    replicas_current: int = 1
    missing: bool = False


class HoldStatus(Message):
    """The open holds of quota; `overdue` ones have passed their end and were not ended yet."""

    open: int
    overdue: int
    oldest_s: float | None


class SiteStatus(Message):
    """An installation at the Unix time `at`, by the clock of the bus."""

    at: float
    pools: tuple[PoolStatus, ...]
    workers: tuple[WorkerInfo, ...]
    consumers: tuple[ConsumerStatus, ...]
    streams: tuple[StreamStatus, ...]
    holds: HoldStatus
    dead_letters: int
    processes: tuple[ProcessRecord, ...] = ()


async def site_status(bus: Bus, config: Config) -> SiteStatus:
    """Reads how an installation stands.

    Raises:
        BusError: the bus failed.
    """
    now = await _now(bus)
    declared = consumers(config)
    names = [*(spec.name for spec in streams(config)), *(f"KV_{spec.name}" for spec in buckets())]
    stored = [await _stream(bus, name, now) for name in names]
    present = {one.name for one in stored if not one.missing}
    found = [
        one for name in dict.fromkeys(spec.stream for spec in declared) for one in await _consumers(bus, name, declared)
    ]
    entries = await Bucket(bus, BUCKET_WORKERS).list(">") if f"KV_{BUCKET_WORKERS}" in present else []
    workers = _parsed(WorkerInfo, [entry.value for entry in entries if entry.key.startswith("worker.")])
    processes = _parsed(ProcessRecord, [entry.value for entry in entries if entry.key.startswith("process.")])
    return SiteStatus(
        at=now,
        pools=tuple([await _pool(bus, now, *pool, workers, found) for pool in _pools(config)]),
        workers=tuple(sorted(workers, key=lambda one: (one.service, one.pool, one.id))),
        consumers=tuple(found),
        streams=tuple(stored),
        holds=await _holds(bus, now) if LEASE in present else HoldStatus(open=0, overdue=0, oldest_s=None),
        dead_letters=await _dead_letters(bus) if DLQ in present else 0,
        processes=tuple(processes),
    )


def _pools(config: Config) -> list[tuple[Service, str]]:
    sections: tuple[tuple[Service, Iterable[str]], ...] = (
        ("chat", config.chat.pools),
        ("tts", config.tts.pools),
        ("stt", config.stt.pools),
    )
    return [(service, name) for service, pools in sections for name in pools]


async def _pool(
    bus: Bus,
    now: float,
    service: Service,
    name: str,
    workers: Sequence[WorkerInfo],
    found: Sequence[ConsumerStatus],
) -> PoolStatus:
    stream = JOB_STREAMS[service]
    of_name = {one.name: one for one in found if one.stream == stream}
    none = ConsumerStatus(stream=stream, name="", missing=True)
    live, batch = (of_name.get(consumer_name(service, name, each), none) for each in JOB_CLASSES)
    own = [one for one in workers if (one.service, one.pool) == (service, name)]
    waiting = [
        await _oldest_s(bus, stream, subjects.job(service, name, each, "*"), one.delivered_seq + 1, now)
        for each, one in zip(JOB_CLASSES, (live, batch), strict=True)
        if one.waiting
    ]
    return PoolStatus(
        service=service,
        pool=name,
        workers=len(own),
        ready=sum(one.ready for one in own),
        draining=sum(one.draining for one in own),
        slots=sum(one.slots for one in own),
        slots_used=sum(one.slots_used for one in own),
        waiting_live=live.waiting,
        waiting_batch=batch.waiting,
        running=live.unacknowledged + batch.unacknowledged,
        oldest_job_s=await _oldest_s(bus, stream, subjects.jobs_of(service, name), 1, now),
        oldest_waiting_s=max((age for age in waiting if age is not None), default=None),
    )


async def _oldest_s(bus: Bus, stream: str, subject: str, from_seq: int, now: float) -> float | None:
    try:
        found = await bus.api(f"STREAM.MSG.GET.{stream}", {"seq": from_seq, "next_by_subj": subject})
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise
        return None
    return max(0.0, now - _unix(found["message"]["time"]))


async def _consumers(bus: Bus, stream: str, declared: Sequence[ConsumerSpec]) -> list[ConsumerStatus]:
    wanted = [spec.name for spec in declared if spec.stream == stream]
    infos: list[dict[str, Any]] = []
    try:
        while True:
            page = await bus.api(f"CONSUMER.LIST.{stream}", {"offset": len(infos)})
            infos += page.get("consumers") or []
            if not page.get("consumers") or len(infos) >= page["total"]:
                break
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise
    found = {info["name"]: info for info in infos if info["config"].get("durable_name")}
    return [
        *(
            _consumer(stream, found[name], declared=True)
            if name in found
            else ConsumerStatus(stream=stream, name=name, missing=True)
            for name in wanted
        ),
        *(_consumer(stream, info, declared=False) for name, info in sorted(found.items()) if name not in wanted),
    ]


def _consumer(stream: str, info: dict[str, Any], *, declared: bool) -> ConsumerStatus:
    return ConsumerStatus(
        stream=stream,
        name=info["name"],
        waiting=info["num_pending"],
        unacknowledged=info["num_ack_pending"],
        redelivered=info["num_redelivered"],
        open_pulls=info.get("num_waiting", 0),
        max_ack_pending=info["config"].get("max_ack_pending", 0),
        delivered_seq=info["delivered"]["stream_seq"],
        declared=declared,
    )


async def _stream(bus: Bus, name: str, now: float) -> StreamStatus:
    try:
        info = await bus.api(f"STREAM.INFO.{name}", {})
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise
        return StreamStatus(name=name, missing=True)
    config, state, cluster = info["config"], info["state"], info.get("cluster") or {}
    bound = config.get("max_bytes", -1)
    followers = cluster.get("replicas") or []
    return StreamStatus(
        name=name,
        messages=state["messages"],
        bytes=state["bytes"],
        max_bytes=bound if bound > 0 else None,
        memory=config["storage"] == "memory",
        oldest_s=max(0.0, now - _unix(state["first_ts"])) if state["messages"] else None,
        leader=cluster.get("leader"),
        replicas=config["num_replicas"],
        replicas_current=1 + sum(bool(follower.get("current")) for follower in followers),
    )


async def _holds(bus: Bus, now: float) -> HoldStatus:
    count = overdue = 0
    oldest: float | None = None
    async for batch in read_batches(bus, LEASE, subjects.lease_filter(), batch_size=HOLDS_PER_READ):
        for stored in batch:
            # A lease without content is a marker that lives for a second.
            for hold in _parsed(Hold, [stored.data] if stored.data else []):
                count += 1
                overdue += hold.expires_at < now
                oldest = max(oldest or 0.0, now - stored.stored_at)
    return HoldStatus(open=count, overdue=overdue, oldest_s=oldest)


async def _dead_letters(bus: Bus) -> int:
    info = await bus.api(f"STREAM.INFO.{DLQ}", {"subjects_filter": subjects.dead_letter("*")})
    return sum((info["state"].get("subjects") or {}).values())


async def _now(bus: Bus) -> float:
    """The time by the clock of the bus, or of this machine where the streams are not declared yet."""
    try:
        return _unix((await bus.api(f"STREAM.INFO.{LEASE}", {}))["ts"])
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise
        return time.time()


def _parsed(model: type[M], texts: Iterable[bytes]) -> list[M]:
    """Those that can be read; what another version wrote may not be."""
    found: list[M] = []
    for text in texts:
        try:
            found.append(model.model_validate_json(text))
        except ValidationError:
            continue
    return found


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
