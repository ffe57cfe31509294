"""A server that is measured: how it is reached, what it is, and how its failures become kinds."""

import asyncio
import contextlib
import json
import math
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, cast

import aiohttp

from callboard_cli.bench.samples import MAX_CODE_CHARACTERS, FailedRequest, Failure, Sample, printable
from callboard_cli.failures import CommandError
from callboard_cli.volunteer.errors import EngineFailed

CONNECT_TIMEOUT_S = 10.0
PROBE_TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 1024 * 1024
MAX_STREAM_BYTES = 64 * 1024 * 1024
DRAIN_TIMEOUT_S = 0.5
DNS_CACHE_S = 600
DEFAULT_VOICE = "alloy"
"""What OpenAI's own service calls a voice."""


@dataclass(slots=True)
class Target:
    """One server; models and voices are those that it is asked for."""

    number: int
    root: str
    session: aiohttp.ClientSession
    timeout_s: float
    is_callboard: bool = False
    model: str = ""
    speech_model: str = ""
    voice: str = ""
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    """Why a kind of work is not measured here."""

    @property
    def api(self) -> str:
        """The address below which OpenAI's paths lie."""
        return f"{self.root}/v1"

    @asynccontextmanager
    async def asking(
        self, method: str, url: str, body: Mapping[str, Any] | None = None, *, also: int = 200
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Sends a request; raises FailedRequest for any status but 200 and the one that is welcome too."""
        # What is measured is the host that was named, not one that it points to.
        async with self.session.request(method, url, json=body, allow_redirects=False) as answer:
            if answer.status not in {200, also}:
                raise FailedRequest(await _refusal(answer), _retry_after_s(answer))
            yield answer
            await _drained(answer)

    async def json(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that a request is answered with; raises FailedRequest."""
        async with self.asking(method, url, body) as answer:
            found = _object(await whole_body(answer))
        if found is None:
            raise FailedRequest(Failure("not_json", 200))
        return found

    async def measured(self, sample: Sample, ask: Callable[[], Awaitable[None]]) -> float | None:
        """Runs one request and notes its times and its failure; returns for how long the server asks for quiet."""
        retry_after_s = None
        sample.sent_s = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                await ask()
        except FailedRequest as error:
            sample.failure, retry_after_s = error.failure, error.retry_after_s
        except (TimeoutError, aiohttp.ClientError, EngineFailed, OSError, ValueError) as error:
            sample.failure = failure_of(error)
        # A room's turn ends with its reply, and is left when the reply was heard.
        sample.end_s = sample.end_s or time.monotonic()
        return retry_after_s

    async def probe(self) -> None:
        """Finds out what the server is and has. Raises CommandError where it cannot be reached or takes no key."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S), self.asking("GET", f"{self.api}/models") as answer:
                self.is_callboard = answer.headers.get("Server", "") == "callboard"
                listed = _object(await whole_body(answer))
        except FailedRequest as error:
            raise CommandError(
                f"{self.root}/v1/models: {error.failure.kind} {error.failure.example}".rstrip()
            ) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise CommandError(f"{self.root}: {failure_of(error).kind}") from None
        names = _names(listed)
        if self.is_callboard:
            await self._choose_from_callboard()
        elif not self.model:
            self.model = names[0] if names else ""
        if not self.model:
            raise CommandError(f"{self.root} offers no model; name one by --model")
        if not self.speech_model:
            why = "the server offers no speech" if self.is_callboard else "name a model by --speech-model"
            self.left_out["speech"] = why
        if not self.is_callboard:
            self.left_out["rooms"] = "the server is no Callboard"
        self.voice = self.voice or DEFAULT_VOICE

    async def _choose_from_callboard(self) -> None:
        """Takes the site's own defaults, which it tells the scripts of rooms."""
        with contextlib.suppress(FailedRequest, TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                chat = await self.json("GET", f"{self.root}/chat_models")
                self.model = self.model or _name(chat, "default_model")
                spoken = await self.json("GET", f"{self.root}/audio_models")
                self.speech_model = self.speech_model or _name(spoken, "default_model")
                self.voice = self.voice or _name(spoken, "default_voice")


def failure_of(error: Exception) -> Failure:
    """The kind of a failure that has no status."""
    match error:
        case TimeoutError():
            return Failure("timeout")
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            return Failure("refused")
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLError():
            return Failure("certificate", example=printable(error))
        case aiohttp.ClientConnectorError():
            return Failure("unreachable", example=printable(error))
        case (
            aiohttp.ServerDisconnectedError()
            | aiohttp.ClientPayloadError()
            | ConnectionError()
            | aiohttp.ClientOSError()
        ):
            return Failure("disconnected")
        case EngineFailed():
            return Failure("not_json", 200)
        case _:
            return Failure("not_understood", example=printable(type(error).__name__))


def stream_failure(error: object) -> FailedRequest:
    """The failure that a server tells in the middle of a stream."""
    return FailedRequest(_told(error, 200))


async def _refusal(answer: aiohttp.ClientResponse) -> Failure:
    try:
        found = _object(await whole_body(answer))
    except FailedRequest:
        found = None
    if found is None:
        return Failure("error", answer.status)
    return _told(found.get("error", found.get("detail", found)), answer.status)


def _told(error: object, status: int) -> Failure:
    if isinstance(error, dict):
        fields = cast(dict[str, Any], error)
        code = next((fields[name] for name in ("code", "type") if isinstance(fields.get(name), str)), "error")
        return Failure(printable(code, MAX_CODE_CHARACTERS), status, printable(fields.get("message", "")))
    return Failure("error", status, printable(error if isinstance(error, str) else ""))


def _retry_after_s(answer: aiohttp.ClientResponse) -> float | None:
    asked = answer.headers.get("Retry-After", "")
    try:
        asked_s = float(asked)
    except ValueError:
        try:
            asked_s = parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, asked_s) if math.isfinite(asked_s) else None


async def _drained(answer: aiohttp.ClientResponse) -> None:
    """Reads what is left after the end of an event stream, since only then the connection serves the next request."""
    with contextlib.suppress(TimeoutError, FailedRequest, aiohttp.ClientError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            await whole_body(answer)


async def whole_body(answer: aiohttp.ClientResponse) -> bytes:
    """The body of an answer that is not streamed; raises FailedRequest when it is too long."""
    found = b""
    async for part in answer.content.iter_any():
        found += part
        if len(found) > MAX_ANSWER_BYTES:
            raise FailedRequest(Failure("too_long", answer.status))
    return found


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], found) if isinstance(found, dict) else None


def _name(found: dict[str, Any], field: str) -> str:
    name: object = found.get(field)
    return name if isinstance(name, str) else ""


def _names(listed: dict[str, Any] | None) -> list[str]:
    entries = cast(object, (listed or {}).get("data"))
    if not isinstance(entries, list):
        return []
    found = (cast(dict[str, Any], one).get("id") for one in cast(list[object], entries) if isinstance(one, dict))
    return [name for name in found if isinstance(name, str)]
