"""What each user of the bus may publish and subscribe to: one user for each service, and the operator.

The streams' API is part of it: whoever may publish to `$JS.API.DIRECT.GET.OUT` reads the stream OUT. Permissions name
subjects, not what stands in a request, so a user that reads a stream by a filter may read the whole stream.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from callboard_contracts.jobs import Service as WorkerService
from callboard_contracts.streams import (
    ATTEMPTS,
    AUDIO,
    AUDIT,
    BUCKET_ACCOUNTS,
    BUCKET_CHARACTERS,
    BUCKET_ROOMS,
    BUCKET_VOLUNTEERS,
    BUCKET_WORKERS,
    CHAT,
    DLQ,
    JOB_STREAMS,
    KEYS,
    KUDOS,
    LEASE,
    OUT,
    PROGRESS,
    QUOTA,
    RESULT,
    ROOM_AUDIO,
    SAVES,
    SETTLEMENT,
    SOUND,
    STT,
    TRANSFERS,
    TTS,
    TURN_CONSUMER,
    TURNS,
    USAGE,
    WEBHOOK_CONSUMER,
    WEBHOOKS,
)
from callboard_contracts.subjects import (
    CHARACTERS_DELETE,
    CHARACTERS_PUT,
    CTL_ACCOUNTS,
    CTL_CHARACTERS,
    CTL_INVALIDATE,
    DATA_KEYS,
    INBOX,
    QUOTA_IDENTIFY,
    QUOTA_KUDOS_EARN,
    QUOTA_KUDOS_SHOW,
    QUOTA_KUDOS_TRANSFER,
    QUOTA_KUDOS_UPTIME,
    QUOTA_RELEASE,
    QUOTA_RESERVE,
    QUOTA_USAGE,
    QUOTA_VERIFY,
    ROOMS_CANCEL,
    ROOMS_END,
    ROOMS_OPEN,
    ROOMS_POST,
    ROOMS_RESET,
    ROOMS_SPEAK,
    RUNNING_REPLY,
    describe_model,
    detokenize,
    tokenize,
    volunteer_pop,
    volunteer_progress,
    volunteer_submit,
    volunteer_withdraw,
)

User = Literal["edge", "chat", "tts", "stt", "rooms", "quota", "operator"]
USERS: tuple[User, ...] = get_args(User)

_API = "$JS.API"
_ASKED_BY_ANSWERER: dict[User, tuple[User, ...]] = {
    "edge": ("chat", "tts", "stt", "edge"),
    "chat": ("chat", "edge", "operator"),
    "tts": ("tts", "operator"),
    "stt": ("stt", "operator"),
    "rooms": ("edge", "operator"),
    "quota": ("edge", "chat", "tts", "stt", "rooms", "operator"),
}
"""Who asks whom, and so to whose inboxes an answer may go."""
_OWN_STREAMS: dict[User, tuple[str, ...]] = {
    "edge": (CHAT, TTS, STT, RESULT, KEYS),
    "rooms": (TURNS,),
    "quota": (USAGE, QUOTA, KUDOS, TRANSFERS, LEASE, AUDIT),
}


@dataclass(frozen=True, slots=True)
class Permissions:
    """The subjects that a user may publish and subscribe to; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def checked_streams(user: User, stored: Iterable[str]) -> tuple[str, ...]:
    """Those of the stored streams that a service asks for errors of the disk, which takes the right to delete."""
    own = _OWN_STREAMS[user]
    return tuple(name for name in stored if name in own)


def permissions(user: User, *, admin_api: bool = False) -> Permissions:
    """What a user may do; with `admin_api` the edge may also do what operators can through it."""
    if user == "operator":
        # It declares streams, restores them and gives jobs back, which takes everything but the system account.
        return Permissions((">",), (">",))
    publish = [*_COMMON, *_PUBLISH[user], *(f"{INBOX}.{asker}.>" for asker in _ASKED_BY_ANSWERER.get(user, ()))]
    publish += [_delete(stream) for stream in _OWN_STREAMS.get(user, ())]
    if admin_api and user == "edge":
        publish += _ADMIN_API
    return Permissions(tuple(sorted(set(publish))), tuple(sorted({f"{INBOX}.{user}.>", *_SUBSCRIBE[user]})))


def _api(operation: str, *names: str) -> str:
    return ".".join((_API, operation, *names))


def _read(stream: str) -> tuple[str, ...]:
    """Reading a whole stream without a consumer: by filters, and the newest message of a subject."""
    return _api("DIRECT.GET", stream), _api("DIRECT.GET", stream, ">")


def _read_last(stream: str, *patterns: str) -> tuple[str, ...]:
    """Reading the newest message of subjects whose name the reader knows, and nothing else."""
    return tuple(_api("DIRECT.GET", stream, pattern) for pattern in patterns)


def _delete(stream: str) -> str:
    return _api("STREAM.MSG.DELETE", stream)


def _consume(stream: str, consumer: str) -> tuple[str, ...]:
    """Pulling from a durable consumer and acknowledging, by both forms that the server gives such subjects."""
    acks = (f"$JS.ACK.{stream}.{consumer}.>", f"$JS.ACK.*.*.{stream}.{consumer}.>")
    return _api("CONSUMER.MSG.NEXT", stream, consumer), *acks


_COMMON = (_api("STREAM.INFO", QUOTA),)
"""The clock of every process; the answer also tells how many counters there are, but not what they say."""
_CIPHER = (DATA_KEYS, _api("STREAM.INFO", KEYS), _api("STREAM.MSG.GET", KEYS), _delete(KEYS))
"""Encrypting and decrypting payloads, and erasing their keys on time."""
_VOLUNTEERS = (volunteer_pop("*"), volunteer_withdraw("*"), volunteer_submit("*"), volunteer_progress("*"))
_STORE_CHECK = (f"$KV.{BUCKET_WORKERS}.store.*",)
_ROOMS_REQUESTS = (ROOMS_OPEN, ROOMS_POST, ROOMS_SPEAK, ROOMS_RESET, ROOMS_END, ROOMS_CANCEL)
_CHARACTERS_REQUESTS = (CHARACTERS_PUT, CHARACTERS_DELETE)


def _worker(service: WorkerService) -> tuple[str, ...]:
    """What a worker of any pool of a service publishes."""
    stream = JOB_STREAMS[service]
    return (
        *_CIPHER,
        *_consume(stream, "*"),
        _delete(stream),
        _api("STREAM.MSG.GET", stream),
        *(f"dlq.{service}", f"dlq.payload.{service}.*"),
        f"$KV.{BUCKET_WORKERS}.worker.{service}.*.*",
        f"$KV.{BUCKET_WORKERS}.pool.{service}.*",
        *("attempt.*", "progress.*", "result.*", "usage.*"),
        *("ctl.resume.*.*", "ctl.worker.>"),
        *(QUOTA_RESERVE, QUOTA_RELEASE),
        *_read(OUT),
        *_read(LEASE),
        *_read(PROGRESS),
        *_read(DLQ),
        *_read_last(ATTEMPTS, "attempt.*"),
        *_read_last(RESULT, "result.*"),
    )


def _worker_listens(service: WorkerService) -> tuple[str, ...]:
    advisories = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{JOB_STREAMS[service]}.*"
    return "ctl.cancel.*", "ctl.drain.*", "ctl.interest.*", "ctl.worker.>", advisories


_PUBLISH: dict[User, tuple[str, ...]] = {
    "edge": (
        *_CIPHER,
        *_STORE_CHECK,
        *("job.chat.*.*.*", "job.tts.*.*.*", "job.stt.*.*.*"),
        *("sound.*.*.*", _api("STREAM.PURGE", SOUND)),
        *("ctl.cancel.*", "ctl.interest.*", RUNNING_REPLY),
        *(tokenize("*"), detokenize("*"), describe_model("*")),
        *("result.*", "ticket.*", "name.*"),
        *("webhook.*", *_consume(WEBHOOKS, WEBHOOK_CONSUMER)),
        *(QUOTA_RESERVE, QUOTA_RELEASE, QUOTA_IDENTIFY, QUOTA_USAGE, QUOTA_KUDOS_SHOW, QUOTA_KUDOS_TRANSFER),
        QUOTA_KUDOS_UPTIME,
        _api("CONSUMER.INFO", CHAT, "*"),
        *_ROOMS_REQUESTS,
        *_read(OUT),
        *_read(AUDIO),
        *_read(ROOM_AUDIO),
        *_read_last(RESULT, "result.*", "ticket.*", "name.*"),
        *("save.index.*", "save.part.*.*.*", *_read_last(SAVES, "save.index.*", "save.part.*.*.*")),
        *(_api("STREAM.INFO", SAVES), _api("STREAM.PURGE", SAVES)),
        *_read_last(f"KV_{BUCKET_ROOMS}", f"$KV.{BUCKET_ROOMS}.*"),
        *_read(f"KV_{BUCKET_CHARACTERS}"),
        *_read(f"KV_{BUCKET_WORKERS}"),
        *_VOLUNTEERS,
        f"$KV.{BUCKET_VOLUNTEERS}.volunteer.*",
        *_read(f"KV_{BUCKET_VOLUNTEERS}"),
    ),
    "chat": (*_worker("chat"), "out.*.*", "turn.*.*"),
    "tts": (*_worker("tts"), "audio.*.*.*", "room_audio.*.*.*", *_read(AUDIO), *_read(ROOM_AUDIO)),
    "stt": (*_worker("stt"), "out.*.*", *_read(SOUND)),
    "rooms": (
        *_CIPHER,
        *_STORE_CHECK,
        *(f"$KV.{BUCKET_ROOMS}.*", f"$KV.{BUCKET_CHARACTERS}.>"),
        *("job.chat.*.*.*", "job.tts.*.*.*"),
        *("ctl.cancel.*", "ctl.room.*", CTL_CHARACTERS),
        *("result.*", "room_audio.*.*.*"),
        QUOTA_RELEASE,
        *_consume(TURNS, TURN_CONSUMER),
        *(_delete(CHAT), _delete(TTS)),
        *_read(CHAT),
        *_read(f"KV_{BUCKET_ROOMS}"),
        *_read(f"KV_{BUCKET_CHARACTERS}"),
        *_read_last(ATTEMPTS, "attempt.*"),
        *_read_last(RESULT, "result.*"),
    ),
    "quota": (
        *_STORE_CHECK,
        *("q.used.*.*.*", "q.kudos.*", "q.transfer.*", "lease.*.*", "audit.*"),
        CTL_INVALIDATE,
        f"$KV.{BUCKET_ACCOUNTS}.>",
        *_consume(USAGE, SETTLEMENT),
        _api("STREAM.PURGE", QUOTA),
        _api("CONSUMER.INFO", USAGE, SETTLEMENT),
        *(_api("STREAM.INFO", stream) for stream in (QUOTA, KUDOS, TRANSFERS, LEASE, AUDIT, USAGE)),
        *(name for stream in (QUOTA, KUDOS, TRANSFERS, LEASE, AUDIT, USAGE) for name in _read(stream)),
        *_read(f"KV_{BUCKET_ACCOUNTS}"),
    ),
}
_SUBSCRIBE: dict[User, tuple[str, ...]] = {
    "edge": (
        *("out.*.*", "audio.*.*.*", "room_audio.*.*.*", "result.*"),
        *("ctl.resume.*.*", RUNNING_REPLY, CTL_CHARACTERS, CTL_ACCOUNTS, f"$KV.{BUCKET_WORKERS}.>"),
        f"$KV.{BUCKET_VOLUNTEERS}.>",
    ),
    "chat": (*_worker_listens("chat"), tokenize("*"), detokenize("*"), describe_model("*"), *_VOLUNTEERS),
    "tts": (*_worker_listens("tts"), "out.*.*"),
    "stt": _worker_listens("stt"),
    "rooms": (*_ROOMS_REQUESTS, *_CHARACTERS_REQUESTS),
    "quota": ("quota.>", CTL_ACCOUNTS, CTL_INVALIDATE),
}
_ADMIN_API = (
    *_CHARACTERS_REQUESTS,
    CTL_ACCOUNTS,
    f"$KV.{BUCKET_ACCOUNTS}.>",
    *(QUOTA_VERIFY, QUOTA_KUDOS_EARN),
    *(_api("STREAM.INFO", stream) for stream in (USAGE, QUOTA)),
    *(name for stream in (USAGE, QUOTA, KUDOS, TRANSFERS, AUDIT) for name in _read(stream)),
    *_read(f"KV_{BUCKET_ACCOUNTS}"),
    *_read(f"KV_{BUCKET_ROOMS}"),
)
