"""Every stream, consumer and bucket of the bus, declared once as data.

`callboard streams apply` makes the server agree with this; services only use what is there. Durations are in the
server's own unit, nanoseconds, where the field goes to the server, and in seconds in every name here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from callboard_contracts import subjects
from callboard_contracts.config import Config

NANOSECONDS_PER_S = 1_000_000_000

ACK_WAIT_S = 6.0
"""A job whose worker has not reported for this long is given to another; workers report three times as often."""
MAX_DELIVERIES = 5
RESULT_LIFE_S = 20 * 60
DEAD_PAYLOAD_LIFE_S = 20 * 60
"""How long the encrypted payload of a dead letter is kept; never longer than its key."""
KEY_ROTATION_S = 120.0
"""How long payloads are encrypted under one key."""
KEY_MARGIN_S = 60.0
"""How long after its deadline a job may still be handed to a worker that has to answer for it."""
OUT_LIFE_S = 120
"""The least time for which frames can be read back."""
OUT_MARGIN_S = 30
AUDIO_LIFE_S = 600
ROOMS_BYTES = 1024 * 1024 * 1024
"""So much all rooms may have together, since everybody may open rooms; those that rested longest make place for others.

A cluster that refuses what does not fit refuses changes and deletions too, so that no room could ever end.
"""
CHARACTERS_BYTES = 1024 * 1024 * 1024
VOLUNTEERS_BYTES = 64 * 1024 * 1024
"""So much the records of all volunteers may have together; one more is refused."""
SOUND_BYTES = 128 * 1024 * 1024
"""So much all sounds that are to be transcribed may have together; one more is refused."""
ROOM_AUDIO_BYTES = 512 * 1024 * 1024
ROOM_LIFE_S = 86_400
"""How long the end of a turn waits for a rooms process."""
PROGRESS_LIFE_S = 2 * 86_400
"""Longer than a job may lie until a process handles that it was given up."""
USAGE_LIFE_S = 400 * 86_400
"""Longer than a billing year, so that usage can always be recomputed."""
COUNTER_LIFE_S = 70 * 86_400
"""Longer than two calendar months, the longest period that a limit covers."""
SAVES_SPARE_BYTES = 64 * 1024 * 1024
"""So much beyond what may be saved the stream takes, so that slots can still be changed and emptied when it is full."""
AUDIT_LIFE_S = 30 * 86_400
LEASE_LIFE_S = 3600
LEASE_KEPT_S = 30 * 86_400
"""So long nothing may run and every hold can still be ended; kudos that are held come back only that way."""
DEDUPLICATION_WINDOW_S = 2 * LEASE_LIFE_S
"""Every id of a hold is used within a lease's life, so a repeat always falls inside this window."""

CHAT = "CHAT"
TTS = "TTS"
STT = "STT"
JOB_STREAMS: dict[str, str] = {"chat": CHAT, "tts": TTS, "stt": STT}
"""The work queue of each service."""
OUT = "OUT"
ATTEMPTS = "ATTEMPTS"
RESULT = "RESULT"
PROGRESS = "PROGRESS"
KEYS = "KEYS"
"""The keys of the payloads in work queues and results."""
AUDIO = "AUDIO"
SOUND = "SOUND"
"""What is to be transcribed, until it has been."""
ROOM_AUDIO = "ROOM_AUDIO"
WEBHOOKS = "WEBHOOKS"
"""The webhooks that are to be called, until they were."""
TURNS = "TURNS"
"""The ends of turns, until the rooms service has handled them."""
USAGE = "USAGE"
QUOTA = "QUOTA"
KUDOS = "KUDOS"
TRANSFERS = "TRANSFERS"
LEASE = "LEASE"
AUDIT = "AUDIT"
SAVES = "SAVES"
"""What callers keep in their slots."""
DLQ = "DLQ"
TURN_CONSUMER = "rooms-turns"
WEBHOOK_CONSUMER = "edge-webhooks"
SETTLEMENT = "quota-settlement"
"""The durable consumer of USAGE from which the quota processes settle holds."""
BUCKET_ROOMS = "ROOMS"
BUCKET_CHARACTERS = "CHARACTERS"
BUCKET_ACCOUNTS = "ACCOUNTS"
BUCKET_WORKERS = "WORKERS"
BUCKET_VOLUNTEERS = "VOLUNTEERS"


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream: its name and the server's configuration fields beside name and replicas."""

    name: str
    subjects: tuple[str, ...]
    memory: bool = False
    max_age_s: float = 0
    options: dict[str, Any] = field(default_factory=dict)

    def config(self, replicas: int) -> dict[str, Any]:
        """The request body for the server's stream API."""
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "storage": "memory" if self.memory else "file",
            "retention": "limits",
            "discard": "old",
            "max_age": int(self.max_age_s * NANOSECONDS_PER_S),
            "num_replicas": replicas,
            "allow_direct": True,
            **self.options,
        }


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """One durable pull consumer; `max_deliveries` of -1 hands a message out until it is acknowledged."""

    stream: str
    name: str
    filter_subject: str
    max_ack_pending: int
    max_deliveries: int = MAX_DELIVERIES

    def config(self) -> dict[str, Any]:
        """The request body for the server's consumer API."""
        return {
            "durable_name": self.name,
            "filter_subject": self.filter_subject,
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * NANOSECONDS_PER_S),
            "max_deliver": self.max_deliveries,
            "max_ack_pending": self.max_ack_pending,
            "deliver_policy": "all",
        }


@dataclass(frozen=True, slots=True)
class BucketSpec:
    """One key-value bucket."""

    name: str
    history: int = 1
    key_ttl: bool = False
    max_bytes: int = -1
    discard: Literal["new", "old"] = "new"

    def config(self, replicas: int) -> dict[str, Any]:
        """The request body for the server's stream API; a bucket is a stream of a fixed form."""
        config: dict[str, Any] = {
            "name": f"KV_{self.name}",
            "subjects": [f"$KV.{self.name}.>"],
            "storage": "file",
            "retention": "limits",
            "discard": self.discard,
            "max_msgs_per_subject": self.history,
            "max_bytes": self.max_bytes,
            "num_replicas": replicas,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
        }
        if self.key_ttl:
            config["allow_msg_ttl"] = True
        return config


def _work_queue(max_queued_per_tenant: int) -> dict[str, Any]:
    return {
        "retention": "workqueue",
        "discard": "new",
        "discard_new_per_subject": True,
        "max_msgs_per_subject": max_queued_per_tenant,
        "max_msgs": 100_000,
        "duplicate_window": 120 * NANOSECONDS_PER_S,
    }


def streams(config: Config) -> tuple[StreamSpec, ...]:
    """All streams of an installation."""
    chat_bound = max((pool.max_queued_per_tenant for pool in config.chat.pools.values()), default=64)
    tts_bound = max((pool.max_queued_per_tenant for pool in config.tts.pools.values()), default=64)
    stt_bound = max((pool.max_queued_per_tenant for pool in config.stt.pools.values()), default=64)
    window = DEDUPLICATION_WINDOW_S * NANOSECONDS_PER_S
    return (
        StreamSpec(CHAT, ("job.chat.>",), options=_work_queue(chat_bound)),
        StreamSpec(TTS, ("job.tts.>",), options=_work_queue(tts_bound)),
        StreamSpec(STT, ("job.stt.>",), options=_work_queue(stt_bound)),
        StreamSpec(
            OUT, ("out.*.*",), memory=True, max_age_s=frames_life_s(config), options={"max_bytes": 256 * 1024 * 1024}
        ),
        StreamSpec(
            ATTEMPTS,
            ("attempt.*",),
            memory=True,
            max_age_s=frames_life_s(config),
            options={"max_msgs_per_subject": 1, "max_bytes": 64 * 1024 * 1024},
        ),
        StreamSpec(
            RESULT,
            ("result.*", "ticket.*", "name.*"),
            max_age_s=RESULT_LIFE_S,
            options={"max_msgs_per_subject": 1, "max_bytes": 1024 * 1024 * 1024},
        ),
        StreamSpec(
            PROGRESS,
            ("progress.*",),
            max_age_s=PROGRESS_LIFE_S,
            options={"max_msgs_per_subject": 1, "max_bytes": 64 * 1024 * 1024},
        ),
        # Without an age: the server erases a key only when it is deleted by its number.
        StreamSpec(KEYS, (subjects.DATA_KEYS,)),
        StreamSpec(AUDIO, ("audio.>",), memory=True, max_age_s=AUDIO_LIFE_S, options={"max_bytes": 512 * 1024 * 1024}),
        StreamSpec(
            SOUND,
            ("sound.*.*.*",),
            memory=True,
            max_age_s=frames_life_s(config),
            options={"discard": "new", "max_bytes": SOUND_BYTES},
        ),
        _room_audio(config),
        StreamSpec(
            WEBHOOKS,
            ("webhook.*",),
            max_age_s=RESULT_LIFE_S,
            options={"retention": "workqueue", "discard": "new", "max_msgs": config.horde.webhooks.max_waiting},
        ),
        StreamSpec(
            TURNS,
            ("turn.*.*",),
            max_age_s=ROOM_LIFE_S,
            options={"retention": "workqueue", "duplicate_window": 120 * NANOSECONDS_PER_S},
        ),
        StreamSpec(USAGE, ("usage.*",), max_age_s=USAGE_LIFE_S, options={"duplicate_window": window}),
        StreamSpec(
            QUOTA,
            ("q.used.*.*.*",),
            max_age_s=COUNTER_LIFE_S,
            options={"allow_msg_counter": True, "duplicate_window": window},
        ),
        # Balances and transactions are kept for ever, since a balance is still owed after a year without a change.
        StreamSpec(KUDOS, ("q.kudos.*",), options={"allow_msg_counter": True, "duplicate_window": window}),
        StreamSpec(TRANSFERS, ("q.transfer.*",), options={"duplicate_window": window}),
        StreamSpec(
            LEASE,
            ("lease.*.*",),
            max_age_s=LEASE_KEPT_S,
            options={"max_msgs_per_subject": 1, "allow_msg_ttl": True},
        ),
        StreamSpec(
            AUDIT,
            ("audit.*",),
            max_age_s=AUDIT_LIFE_S,
            options={"duplicate_window": window},
        ),
        StreamSpec(
            SAVES,
            ("save.index.*", "save.part.*.*.*"),
            max_age_s=config.kobold.saves_life_s,
            options={
                "discard": "new",
                "max_msgs_per_subject": 1,
                "max_bytes": config.kobold.saves_max_mib * 1024 * 1024 + SAVES_SPARE_BYTES,
            },
        ),
        StreamSpec(
            DLQ,
            (
                "dlq.>",
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.*.*",
                # A job that is removed because its client left is terminated too, and is none of these.
                *(f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{stream}.*" for stream in (USAGE, TURNS)),
            ),
            max_age_s=14 * 86_400,
            options={"max_bytes": 256 * 1024 * 1024, "allow_msg_ttl": True},
        ),
    )


def _room_audio(config: Config) -> StreamSpec:
    """What is said in rooms: on disk where sites record it, else in memory until all listeners have heard it."""
    life_s = config.rooms.recording_life_s
    max_bytes = ROOM_AUDIO_BYTES if life_s is None else config.rooms.recording_max_mib * 1024 * 1024
    return StreamSpec(
        ROOM_AUDIO,
        ("room_audio.*.*.*",),
        memory=life_s is None,
        max_age_s=life_s or AUDIO_LIFE_S,
        options={"max_bytes": max_bytes},
    )


def stored_streams(config: Config) -> tuple[str, ...]:
    """The names of the streams that are kept on disk."""
    return tuple(spec.name for spec in streams(config) if not spec.memory)


def frames_life_s(config: Config) -> float:
    """How long frames can be read back: at least as long as a request may take, so that its text is whole."""
    return max(OUT_LIFE_S, config.edge.request_timeout_s + OUT_MARGIN_S)


def key_life_s(config: Config) -> float:
    """How long a key is kept: until no result under it is served and no job under it is run any more."""
    return KEY_ROTATION_S + max(RESULT_LIFE_S, config.edge.request_timeout_s + KEY_MARGIN_S)


def consumers(config: Config) -> tuple[ConsumerSpec, ...]:
    """The durable consumers: one for each pool and class of job, for usage, for turns and for webhooks."""
    return (
        *_pool_consumers(CHAT, "chat", config.chat.pools),
        *_pool_consumers(TTS, "tts", config.tts.pools),
        *_pool_consumers(STT, "stt", config.stt.pools),
        ConsumerSpec(USAGE, SETTLEMENT, "usage.*", 20_000, max_deliveries=-1),
        ConsumerSpec(TURNS, TURN_CONSUMER, "turn.*.*", 10_000, max_deliveries=-1),
        ConsumerSpec(WEBHOOKS, WEBHOOK_CONSUMER, "webhook.*", 10_000, max_deliveries=-1),
    )


def consumer_name(service: str, pool: str, job_class: subjects.JobClass) -> str:
    """The name of a pool's durable consumer."""
    return f"{service}-{pool}-{job_class}"


def _pool_consumers(stream: str, service: str, pools: Iterable[str]) -> Iterable[ConsumerSpec]:
    for pool in pools:
        for job_class in ("live", "batch"):
            name, jobs = consumer_name(service, pool, job_class), subjects.job(service, pool, job_class, "*")
            yield ConsumerSpec(stream, name, jobs, 10_000)


def buckets() -> tuple[BucketSpec, ...]:
    """All key-value buckets."""
    return (
        BucketSpec(BUCKET_ROOMS, key_ttl=True, max_bytes=ROOMS_BYTES, discard="old"),
        BucketSpec(BUCKET_CHARACTERS, key_ttl=True, max_bytes=CHARACTERS_BYTES),
        BucketSpec(BUCKET_ACCOUNTS, history=8),
        BucketSpec(BUCKET_WORKERS, key_ttl=True),
        BucketSpec(BUCKET_VOLUNTEERS, key_ttl=True, max_bytes=VOLUNTEERS_BYTES),
    )
