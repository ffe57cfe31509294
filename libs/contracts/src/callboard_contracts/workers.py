"""What workers announce of themselves in the bucket WORKERS.

An announcement has a life of its own, so a worker that dies is forgotten. `pool.<service>.<pool>` stays: it tells a
pool that is asleep from one that never had a worker. `process.<name>` is what `callboard up` says of a process that
ended, and `store.<process>` is what a process writes to see whether the bus stores it; both have a life too.
"""

from typing import Literal

from pydantic import Field

from callboard_contracts.jobs import Service
from callboard_contracts.model import Message
from callboard_contracts.subjects import token

ANNOUNCE_INTERVAL_S = 5.0
ANNOUNCE_LIFE_S = 16
"""Whole seconds, as the bus counts them; three announcements may be lost before a worker counts as gone."""

Ability = Literal[
    "completion",
    "chat",
    "tools",
    "json_schema",
    "grammar",
    "images",
    "thinking",
    "logprobs",
    "prefill",
    "embedding",
    "tokenize",
    "transcription",
    "translation",
    "word_timestamps",
    "hotwords",
]


class OfferedVoice(Message):
    """A voice that a worker speaks with; `language` is a tag such as `en-us`, None where the engine alone knows."""

    name: str
    language: str | None = None


class Throughput(Message):
    """What a worker has lately written with a model.

    `tokens_per_s` is the speed of one reply and `tokens_per_reply` its length, as means over the last replies.
    """

    tokens_per_s: float = Field(gt=0)
    tokens_per_reply: float = Field(gt=0)
    tokens_last_minute: int = Field(default=0, ge=0)


class OfferedModel(Message):
    """A model that a worker serves, by its public name.

    `sampling` names the fields of a request's sampling that the engine honours. `tokens_per_byte` is how many tokens a
    byte of a prompt usually is; a worker that says so extends the hold of a job that tells how it was reckoned.
    `word_times` says that a speech model can tell when each word sounds; it is no entry of `abilities`, since an edge
    of an older version knows no others than its own.
    `throughput` is left out until a first reply was written.
    `max_output_tokens` is the longest reply, where the workers know better than the configuration.
    `languages` are the codes of those that it hears, such as `en`; none where the engine alone knows.
    """

    name: str
    context_tokens: int | None = None
    abilities: tuple[Ability, ...] = ()
    sampling: tuple[str, ...] = ()
    voices: tuple[OfferedVoice, ...] = ()
    tokens_per_byte: float | None = Field(default=None, gt=0)
    word_times: bool = False
    throughput: Throughput | None = None
    languages: tuple[str, ...] = ()
    max_output_tokens: int | None = Field(default=None, ge=1)


class WorkerInfo(Message):
    """One worker as it stands at the Unix time `at`."""

    version: Literal[1] = 1
    id: str
    service: Service
    pool: str
    backend: str
    models: tuple[OfferedModel, ...] = ()
    slots: int
    slots_used: int = 0
    ready: bool = True
    draining: bool = False
    at: float


class PoolRecord(Message):
    """That a pool has had a worker: when one last started, in Unix time, and what it offered."""

    last_started_at: float
    models: tuple[OfferedModel, ...] = ()


class ProcessRecord(Message):
    """A process that `callboard up` started again, or no longer starts because it ended too often (`failed`).

    `service` and `pool` say what a worker was for.
    """

    name: str
    state: Literal["starting", "running", "restarting", "failed"]
    restarts: int
    service: Service | None = None
    pool: str | None = None


def worker_entry(service: Service, pool: str, worker_id: str) -> str:
    """The bucket's entry of one worker."""
    return f"worker.{service}.{token(pool)}.{token(worker_id)}"


def pool_entry(service: Service, pool: str) -> str:
    """The bucket's entry that says that a pool has had a worker."""
    return f"pool.{service}.{token(pool)}"


def process_entry(name: str) -> str:
    """The bucket's entry of a process that `callboard up` supervises."""
    return f"process.{token(name)}"


def store_check_entry(process: str) -> str:
    """The bucket's entry that a process writes to see whether the bus stores it."""
    return f"store.{token(process)}"
