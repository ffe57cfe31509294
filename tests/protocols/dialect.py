"""How a client of one protocol asks, and how it reads what comes back: what a protocol's tests have to bring."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from callboard_contracts.errors import ErrorCode
from callboard_edge.http.protocol import Protocol
from tests.support.deployment import CHAT_MODEL, HEARING_MODEL, SPEECH_MODEL
from tests.support.sounds import tone, wav

JSON = "application/json"
MALFORMED_KINDS = frozenset({"unreadable", "wrong type", "missing field"})
"""Which malformed requests every protocol must have."""
NEUTRAL_FIELDS = ("output_format", "output_format.json_schema", "tools[0].parameters")
"""Fields of the neutral request that an error may name, and that no client knows."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it goes over the wire, without credentials."""

    path: str
    body: bytes = b""
    content_type: str = JSON
    method: Literal["GET", "POST", "DELETE", "PATCH"] = "POST"


@dataclass(frozen=True, slots=True)
class MalformedRequest:
    """A request that cannot be served, and the error that its client must be told."""

    request: Request
    error: ErrorCode = ErrorCode.INVALID_REQUEST


@dataclass(frozen=True, slots=True)
class ParsedError:
    """An error as a client reads it; `code` is the protocol's own word, empty where it has none."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A reply as a client reads it, whole or as far as it has been streamed.

    `reason` is the protocol's own word for why it ended, None while it has not; `complete` says whether the protocol's
    mark for the end of an answer has been seen.
    """

    text: str
    reason: str | None = None
    error: ParsedError | None = None
    complete: bool = False


@dataclass(frozen=True, slots=True)
class ParsedSpeech:
    """Speech as a client reads it, as far as it has been sent."""

    sound: bytes
    error: ParsedError | None = None
    complete: bool = False


@dataclass(frozen=True, slots=True)
class ParsedJob:
    """A polled job as a client reads it; `reason` is None while it has not ended.

    `running` is set where the protocol says that a worker has the job.
    """

    text: str
    reason: str | None = None
    running: bool = False


class Dialect(ABC):
    """One way to ask one protocol.

    `errors` has the status and the code of every error of the catalogue; `fields` says what the protocol calls the
    fields of the neutral request, with nothing for what it never names; `own_key` opens a protocol that API keys do
    not open; `accepted_status` is that of work which was accepted, where it looks like an error; `own_errors` has what
    only this protocol refuses. Each method that reads an answer fails where its form is not the protocol's.
    """

    protocol: Protocol
    path: str
    errors: Mapping[ErrorCode, tuple[int, str]]
    own_errors: frozenset[tuple[int, str]] = frozenset()
    fields: Mapping[str, str] = {}
    wrong_credentials: ErrorCode = ErrorCode.INVALID_API_KEY
    own_key: str | None = None
    accepted_status: int | None = None

    @abstractmethod
    def auth_headers(self, key: str) -> dict[str, str]:
        """The headers that carry a key."""

    @abstractmethod
    def request_with_text(self, text: str) -> Request:
        """A request that is right in every way and carries a text."""

    @abstractmethod
    def malformed(self) -> Mapping[str, MalformedRequest]:
        """Requests that cannot be served, by what is wrong with them; at least those of `MALFORMED_KINDS`."""

    @abstractmethod
    def read_error(self, body: bytes) -> ParsedError:
        """The error in an answer."""


class TextDialect(Dialect):
    """Asks for text; `keep_alive` is what a stream sends in a silence, nothing where it sends nothing.

    `copies` is how many times a stream has the text of its reply.
    """

    keep_alive: bytes = b""
    copies: int = 1

    @abstractmethod
    def ask(
        self,
        text: str = "Hello.",
        *,
        model: str | None = CHAT_MODEL,
        stream: bool = False,
        max_tokens: int | None = 250,
        stops: Sequence[str] = (),
    ) -> Request:
        """A request for a reply."""

    def request_with_text(self, text: str) -> Request:
        """A request for a reply to the text."""
        return self.ask(text)

    def kept_alive(self, data: bytes, times: int) -> bool:
        """Whether a stream begins with so many keep-alives."""
        return data.startswith(self.keep_alive * times)

    @abstractmethod
    def read_whole(self, body: bytes) -> ParsedReply:
        """A whole reply."""

    @abstractmethod
    def read_stream(self, data: bytes) -> ParsedReply:
        """What a client has read of a stream after these bytes; a part of an event at the end counts for nothing."""


class PolledDialect(Dialect):
    """Asks for text that is polled."""

    @abstractmethod
    def submit(self, text: str = "Hello.", *, model: str = CHAT_MODEL, max_tokens: int = 250) -> Request:
        """A request for a reply that is polled."""

    def request_with_text(self, text: str) -> Request:
        """A request for a reply to the text."""
        return self.submit(text)

    @abstractmethod
    def read_id(self, body: bytes) -> str:
        """The id in the answer to `submit`."""

    @abstractmethod
    def poll(self, job_id: str) -> Request:
        """A request for the job as it stands."""

    @abstractmethod
    def read_job(self, body: bytes) -> ParsedJob:
        """The job in the answer to `poll`."""

    @abstractmethod
    def cancel(self, job_id: str) -> Request:
        """A request to cancel the job."""


class SpeechDialect(Dialect):
    """Asks for speech as PCM."""

    @abstractmethod
    def ask(self, text: str = "Hello there.", *, model: str = SPEECH_MODEL, voice: str = "tenor") -> Request:
        """A request for speech."""

    def request_with_text(self, text: str) -> Request:
        """A request to speak the text."""
        return self.ask(text)

    @abstractmethod
    def read_speech(self, data: bytes, *, cut: bool) -> ParsedSpeech:
        """What a client has heard after these bytes; `cut` where the connection broke."""


class HearingDialect(Dialect):
    """Asks what is said in a sound; `sends_text_early` says whether text comes before all of the sound was heard."""

    sends_text_early: bool = False

    @abstractmethod
    def ask(self, sound: bytes, *, model: str = HEARING_MODEL) -> Request:
        """A request for the text of a file."""

    @abstractmethod
    def ask_as_json(self, sound: bytes) -> Request:
        """The same with the file as base64."""

    def request_with_text(self, text: str) -> Request:
        """A request with a fifth of a second of sound, whose file has the text behind it."""
        return self.ask_as_json(wav(tone(440, 0.2)) + text.encode())

    @abstractmethod
    def read_text(self, body: bytes) -> ParsedReply:
        """What was heard, as far as the answer has come."""


class EmbeddingDialect(Dialect):
    """Asks for embeddings."""

    @abstractmethod
    def ask(self, *texts: str, model: str | None = CHAT_MODEL) -> Request:
        """A request for the vectors of some texts."""

    def request_with_text(self, text: str) -> Request:
        """A request for the vector of the text."""
        return self.ask(text)

    @abstractmethod
    def read_vectors(self, body: bytes) -> Sequence[Sequence[float]]:
        """The vectors in an answer."""
