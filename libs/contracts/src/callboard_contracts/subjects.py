"""Subjects on the bus: one function for each, so that no service spells one by hand."""

import hashlib
import re
from typing import Literal

JobClass = Literal["live", "batch"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LEASE = re.compile(rf"lease\.{_TOKEN.pattern}\.{_TOKEN.pattern}")
_JOB = re.compile(rf"job\.{_TOKEN.pattern}\.{_TOKEN.pattern}\.(?:live|batch)\.(?:\*|{_TOKEN.pattern})")


def token(value: str) -> str:
    """Checks that a value can stand as one token of a subject; raises ValueError otherwise."""
    if _TOKEN.fullmatch(value) is None:
        raise ValueError(f"not a subject token: {value!r}")
    return value


def is_token(value: str) -> bool:
    """Whether a value can stand as one token of a subject."""
    return _TOKEN.fullmatch(value) is not None


def job(service: str, pool: str, job_class: JobClass, tenant: str) -> str:
    """Where a job is queued: `live` where somebody listens, `batch` where the result is polled; `*` filters tenants."""
    subject = f"job.{service}.{pool}.{job_class}.{tenant}"
    if _JOB.fullmatch(subject) is None:
        raise ValueError(f"not a subject token in {subject!r}")
    return subject


def jobs_of(service: str, pool: str) -> str:
    """All jobs of a pool, as a filter."""
    return f"job.{token(service)}.{token(pool)}.*.*"


def job_class_of(subject: str) -> JobClass:
    """The class of a job by the subject that it was queued under."""
    return "batch" if subject.split(".")[3:4] == ["batch"] else "live"


def out(edge: str, request_id: str) -> str:
    """Where the frames of one chat reply appear; `*` is allowed for either."""
    return f"out.{edge}.{request_id}"


def audio(room: str, utterance: str, n: int | str) -> str:
    """Where segment `n` of an utterance appears; `*` is allowed for each."""
    return f"audio.{room}.{utterance}.{n}"


def sound(edge: str, request_id: str, n: int | str) -> str:
    """Where part `n` of the sound lies that is to be transcribed; `*` is allowed for each."""
    return f"sound.{edge}.{request_id}.{n}"


def room_audio(room: str, utterance: str, n: int | str) -> str:
    """Where segment `n` of an utterance in a room appears, and its announcement as `start`; `*` is allowed for each."""
    return f"room_audio.{room}.{utterance}.{n}"


def turn_ended(room: str, turn: str) -> str:
    """Where a worker appends that a room's turn has ended."""
    return f"turn.{token(room)}.{token(turn)}"


def room_changed(room: str) -> str:
    """Published, without a body, whenever a room's document has changed; `*` listens for all."""
    return f"ctl.room.{room if room == '*' else token(room)}"


def result(request_id: str) -> str:
    """Where a finished reply is kept."""
    return f"result.{token(request_id)}"


def ticket(request_id: str) -> str:
    """Where it is kept in which queue a polled job lies."""
    return f"ticket.{token(request_id)}"


def webhook(job_id: str) -> str:
    """Where it is kept that a webhook is to be called with a job's text, until it was."""
    return f"webhook.{token(job_id)}"


def request_name(name: str) -> str:
    """Where it is kept which request a client's own name stands for; any text may be a name."""
    return f"name.{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def usage(tenant: str) -> str:
    """Where a usage event of a tenant is appended."""
    return f"usage.{token(tenant)}"


def cancel(request_id: str) -> str:
    """Where workers listen for the end of a client's interest; `*` listens for all."""
    return f"ctl.cancel.{request_id}"


def progress(worker_id: str) -> str:
    """Where a worker records what its running jobs have used; `*` stands for all workers."""
    return f"progress.{worker_id if worker_id == '*' else token(worker_id)}"


def interest(edge: str) -> str:
    """Where an edge says which of its requests are still open; `*` listens to all edges."""
    return f"ctl.interest.{edge}"


def resume(edge: str, request_id: str) -> str:
    """Where a worker asks an edge how far a reply has come; `*` as the request is the edge's side."""
    return f"ctl.resume.{edge}.{request_id}"


def worker(worker_id: str) -> str:
    """Where a worker answers for as long as it lives."""
    return f"ctl.worker.{token(worker_id)}"


def offered_job(worker_id: str) -> str:
    """Where a worker is asked whether it has room for a job that another took from the queue."""
    return f"ctl.worker.{token(worker_id)}.offer"


def handed_over_job(worker_id: str) -> str:
    """Where a worker gets a job that it has promised room for."""
    return f"ctl.worker.{token(worker_id)}.job"


def drain(worker_id: str) -> str:
    """Where a worker takes the order to take no more jobs and to end, and answers how it stands."""
    return f"ctl.drain.{token(worker_id)}"


def tokenize(pool: str) -> str:
    """Where any worker of a chat pool says what tokens a text has; `*` stands for all pools."""
    return f"chat.tokenize.{pool if pool == '*' else token(pool)}"


def detokenize(pool: str) -> str:
    """Where any worker of a chat pool says what text tokens have; `*` stands for all pools."""
    return f"chat.detokenize.{pool if pool == '*' else token(pool)}"


def describe_model(pool: str) -> str:
    """Where any worker of a chat pool says what a model is; `*` stands for all pools."""
    return f"chat.describe.{pool if pool == '*' else token(pool)}"


def volunteer_pop(worker_id: str) -> str:
    """Where a chat worker is asked for jobs for a volunteer; `*` stands for all chat workers."""
    return f"volunteers.pop.{worker_id if worker_id == '*' else token(worker_id)}"


def volunteer_withdraw(worker_id: str) -> str:
    """Where a chat worker learns that a volunteer left before its answer; `*` stands for all chat workers."""
    return f"volunteers.withdraw.{worker_id if worker_id == '*' else token(worker_id)}"


def volunteer_submit(worker_id: str) -> str:
    """Where a chat worker takes the text of a volunteer; `*` stands for all chat workers."""
    return f"volunteers.submit.{worker_id if worker_id == '*' else token(worker_id)}"


def volunteer_progress(worker_id: str) -> str:
    """Where a chat worker takes a piece of a volunteer's text; `*` stands for all chat workers."""
    return f"volunteers.progress.{worker_id if worker_id == '*' else token(worker_id)}"


def saved_index(tenant: str) -> str:
    """Where it is kept what a tenant has in its slots."""
    return f"save.index.{token(tenant)}"


def saved_part(tenant: str, save_id: str, number: int | Literal["*"]) -> str:
    """Where a part of what was saved is kept; `*` stands for all parts."""
    return f"save.part.{token(tenant)}.{token(save_id)}.{number}"


def dead_letter(stream: str) -> str:
    """Where the dead letters of a work queue are kept; `*` stands for all."""
    return f"dlq.{stream.lower()}"


def dead_payload(stream: str, seq: int) -> str:
    """Where the encrypted payload of a dead letter is kept for as long as its key."""
    return f"dlq.payload.{token(stream.lower())}.{seq}"


def attempt(request_id: str) -> str:
    """Where the newest attempt at a job is recorded."""
    return f"attempt.{token(request_id)}"


def used(tenant: str, metric: str, bucket: str) -> str:
    """The counter of one tenant's use of one metric in one bucket of time."""
    return f"q.used.{token(tenant)}.{metric}.{bucket}"


def used_in(tenant: str, metric: str, bucket: str) -> str:
    """The counters of a bucket of time; `*` stands for every tenant or metric."""
    return f"q.used.{tenant}.{metric}.{bucket}"


def kudos(account: str) -> str:
    """The counter of what an account has spent of its kudos less what it has earned; `*` stands for every account."""
    return f"q.kudos.{account if account == '*' else token(account)}"


def transfer(transaction_id: str) -> str:
    """Where the outcome of a kudos transaction is recorded for ever; `*` stands for every transaction."""
    return f"q.transfer.{transaction_id if transaction_id == '*' else token(transaction_id)}"


def lease(tenant: str, request_id: str) -> str:
    """Where an open hold is recorded until it is settled or expires."""
    subject = f"lease.{tenant}.{request_id}"
    if _LEASE.fullmatch(subject) is None:
        raise ValueError(f"not a subject token in {subject!r}")
    return subject


def lease_filter(tenant: str = "*") -> str:
    """The leases of one tenant, or all."""
    return f"lease.{tenant if tenant == '*' else token(tenant)}.*"


def audit(request_id: str) -> str:
    """Where quota notes what it did about a request."""
    return f"audit.{token(request_id)}"


INBOX = "_INBOX"
"""The first token of every subject where answers to requests come."""
DATA_KEYS = "keys"
"""Where the keys of encrypted payloads are kept."""
CTL_ACCOUNTS = "ctl.accounts"
"""Published, with the account's id as the body, whenever an account changes, so that no process trusts its cache."""
CTL_CHARACTERS = "ctl.characters"
"""Published, with a `CharacterChanged` as the body, whenever a character was written or deleted."""
CTL_INVALIDATE = "ctl.invalidate"
"""Published, with a tenant as the body, whenever its use of a past hour grew, so that no process trusts its cache."""
RUNNING_REPLY = "ctl.running"
"""Where all edges are asked about a reply that one of them writes."""
ROOMS_OPEN = "rooms.open"
ROOMS_POST = "rooms.post"
ROOMS_SPEAK = "rooms.speak"
ROOMS_RESET = "rooms.reset"
ROOMS_END = "rooms.end"
ROOMS_CANCEL = "rooms.cancel"
CHARACTERS_PUT = "characters.put"
CHARACTERS_DELETE = "characters.delete"
QUOTA_RESERVE = "quota.reserve"
QUOTA_RELEASE = "quota.release"
QUOTA_IDENTIFY = "quota.identify"
QUOTA_USAGE = "quota.usage"
QUOTA_VERIFY = "quota.verify"
QUOTA_KUDOS_SHOW = "quota.kudos.show"
QUOTA_KUDOS_EARN = "quota.kudos.earn"
QUOTA_KUDOS_TRANSFER = "quota.kudos.transfer"
QUOTA_KUDOS_UPTIME = "quota.kudos.uptime"
