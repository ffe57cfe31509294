"""The one catalogue of errors: what went wrong, whose fault it is, and whether trying again can help.

Every service reports trouble as an `ErrorInfo`. The edge turns it into each client protocol's own form, and the
code is also the metric label, so the set is closed.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from callboard_contracts.model import Message


class ErrorCode(StrEnum):
    """The stable name of each error."""

    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED = "unsupported"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_VOICE = "unknown_voice"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    TEXT_TOO_LONG = "text_too_long"
    INVALID_API_KEY = "invalid_api_key"
    INVALID_ADMIN_TOKEN = "invalid_admin_token"  # noqa: S105 - the name of an error
    UNKNOWN_ACCOUNT = "unknown_account"
    CONFLICT = "conflict"
    DUPLICATE_MESSAGE = "duplicate_message"
    ROOM_SECRET_REQUIRED = "room_secret_required"  # noqa: S105 - the name of an error
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    QUOTA_EXCEEDED = "quota_exceeded"
    QUEUE_FULL = "queue_full"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NO_WORKER = "no_worker"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    ENGINE_FAILED = "engine_failed"
    INTERRUPTED = "interrupted"
    WORKER_DIED = "worker_died"
    QUOTA_UNAVAILABLE = "quota_unavailable"
    BUS_UNAVAILABLE = "bus_unavailable"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """What one error code means: the fitting HTTP status, whether a retry can help, and a sentence for the docs."""

    status: int
    retryable: bool
    meaning: str


CATALOGUE: dict[ErrorCode, ErrorKind] = {
    ErrorCode.INVALID_REQUEST: ErrorKind(400, False, "A field of the request is missing, malformed or out of range."),
    ErrorCode.UNSUPPORTED: ErrorKind(
        400, False, "The request asks for something that this model's backend, or this installation, cannot do."
    ),
    ErrorCode.UNKNOWN_MODEL: ErrorKind(404, False, "No model of that name is offered here."),
    ErrorCode.UNKNOWN_VOICE: ErrorKind(400, False, "No voice of that name is offered by the model."),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: ErrorKind(400, False, "The prompt does not fit the model's context."),
    ErrorCode.TEXT_TOO_LONG: ErrorKind(400, False, "The text to speak is longer than the limit."),
    ErrorCode.INVALID_API_KEY: ErrorKind(401, False, "The API key is unknown, expired or revoked."),
    ErrorCode.INVALID_ADMIN_TOKEN: ErrorKind(401, False, "The admin token is missing or wrong."),
    ErrorCode.UNKNOWN_ACCOUNT: ErrorKind(404, False, "No account or key is called so, or more than one."),
    ErrorCode.CONFLICT: ErrorKind(409, True, "Others were changing the same thing at the same moment."),
    ErrorCode.DUPLICATE_MESSAGE: ErrorKind(409, False, "The room has a message of this id already."),
    ErrorCode.ROOM_SECRET_REQUIRED: ErrorKind(403, False, "The room is claimed, and its secret is missing or wrong."),
    ErrorCode.NOT_FOUND: ErrorKind(404, False, "Nothing is served at this path, or nothing is known of what it names."),
    ErrorCode.METHOD_NOT_ALLOWED: ErrorKind(405, False, "The path does not take this method."),
    ErrorCode.REQUEST_TIMEOUT: ErrorKind(408, True, "The request's body did not arrive in time."),
    ErrorCode.BODY_TOO_LARGE: ErrorKind(413, False, "The request's body is over the size limit."),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: ErrorKind(415, False, "The request's body is encoded in a way not offered."),
    ErrorCode.TOO_MANY_ATTEMPTS: ErrorKind(429, True, "This address sent too many wrong admin tokens or passwords."),
    ErrorCode.QUOTA_EXCEEDED: ErrorKind(429, True, "A limit of the API key, the address or the site is reached."),
    ErrorCode.QUEUE_FULL: ErrorKind(
        429,
        True,
        "Too many requests of this client are waiting, or too many are listening for one more to be kept fed.",
    ),
    ErrorCode.DEADLINE_EXCEEDED: ErrorKind(504, True, "The request was not finished before its deadline."),
    ErrorCode.NO_WORKER: ErrorKind(
        503, True, "No worker of the model's pool is there, and none is expected or none came in time."
    ),
    ErrorCode.ENGINE_UNAVAILABLE: ErrorKind(503, True, "The engine behind the model could not be reached."),
    ErrorCode.ENGINE_FAILED: ErrorKind(502, True, "The engine behind the model reported an error."),
    ErrorCode.INTERRUPTED: ErrorKind(503, True, "The work was stopped before its end because a process shut down."),
    ErrorCode.WORKER_DIED: ErrorKind(
        422, False, "A worker that worked on the request died, twice in a row or at once; it is not tried again."
    ),
    ErrorCode.QUOTA_UNAVAILABLE: ErrorKind(503, True, "The quota service did not answer."),
    ErrorCode.BUS_UNAVAILABLE: ErrorKind(503, True, "The message bus did not accept the work."),
    ErrorCode.OVERLOADED: ErrorKind(503, True, "The edge has more work than it can hold at the moment."),
    ErrorCode.INTERNAL: ErrorKind(500, True, "Something failed inside Callboard; the log has the request id."),
}


class ErrorInfo(Message):
    """One error on its way to a client.

    `message` is written for the client and never quotes prompts, keys or an engine's raw text. `param` names the
    request field at fault; `offered` lists what may be used instead; `limit` names the limit that was hit.
    """

    code: ErrorCode
    message: str
    param: str | None = None
    offered: tuple[str, ...] = ()
    limit: str | None = None
    retry_after_s: float | None = None

    @property
    def kind(self) -> ErrorKind:
        """The catalogue's entry for this error's code."""
        return CATALOGUE[self.code]


class CallboardError(Exception):
    """The root of every error that Callboard raises on purpose; it carries what the client will be told."""

    def __init__(self, code: ErrorCode, message: str, **details: Any) -> None:
        super().__init__(message)
        self.info = ErrorInfo(code=code, message=message, **details)

    @classmethod
    def of(cls, info: ErrorInfo) -> Self:
        """Makes an error of this class that carries `info`."""
        error = cls(info.code, info.message)
        error.info = info
        return error
