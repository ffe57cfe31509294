"""The Callboard or Horde that a volunteer works for, over the Horde's API."""

import contextlib
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

NODE_HEADER = "Horde-Node"
CALLBOARD = "callboard"
POP_WAIT_S = 20.0
"""How long a Callboard may hold a pop until there is a job."""
POP_TIMEOUT_S = 40.0
SUBMIT_TIMEOUT_S = 60.0
PROGRESS_TIMEOUT_S = 5.0
FIND_TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024


class ServerAway(Exception):  # noqa: N818 - a state of another program
    """The server cannot be reached."""


class ServerSilent(Exception):  # noqa: N818 - a state of another program
    """The server did not answer in time, or broke off."""


class NoJson(Exception):  # noqa: N818 - a state of another program
    """The server's answer is no JSON object, as a proxy's page is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says; `retry_after_s` is set where it says when to ask again."""

    status: int
    body: dict[str, Any]
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it did what was asked."""
        return self.status < 400

    @property
    def rc(self) -> str:
        """The word for what is wrong."""
        return str(self.body.get("rc", ""))

    @property
    def message(self) -> str:
        """What is wrong, on one line."""
        return " ".join(str(self.body.get("message", f"status {self.status}")).split())[:300]


class HordeServer:
    """A server at a URL; `is_callboard` is known once it has answered."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, agent: str) -> None:
        self._session = session
        self._url = url.rstrip("/").removesuffix("/api")
        self._headers = {"apikey": key, "Client-Agent": agent}
        self.is_callboard = False

    async def find_user(self) -> Answer:
        """Whose key it is; raises as the others."""
        return await self._ask("GET", "find_user", None, FIND_TIMEOUT_S)

    async def pop(self, offer: dict[str, Any]) -> Answer:
        """Asks for a job; a Callboard waits a moment for one.

        Raises:
            ServerAway, ServerSilent, NoJson: no answer.
        """
        headers = {"X-Wait": f"{POP_WAIT_S:g}"} if self.is_callboard else {}
        return await self._ask("POST", "generate/text/pop", offer, POP_TIMEOUT_S, headers)

    async def progress(self, job_id: str, text: str) -> Answer:
        """Tells what is written so far, whole; raises as `pop`."""
        return await self._ask("POST", "generate/text/progress", {"id": job_id, "text": text}, PROGRESS_TIMEOUT_S)

    async def submit(self, body: dict[str, Any]) -> Answer:
        """Hands in a text, or says that there is none; raises as `pop`."""
        return await self._ask("POST", "generate/text/submit", body, SUBMIT_TIMEOUT_S)

    async def _ask(
        self, method: str, path: str, body: Any, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Answer:
        url, timeout = f"{self._url}/api/v2/{path}", aiohttp.ClientTimeout(total=timeout_s)
        sent = {**self._headers, **(headers or {})}
        try:
            async with self._session.request(method, url, json=body, headers=sent, timeout=timeout) as answer:
                data = b""
                async for part in answer.content.iter_any():
                    data += part
                    if len(data) > MAX_ANSWER_BYTES:
                        raise NoJson
                if NODE_HEADER in answer.headers:
                    self.is_callboard = answer.headers[NODE_HEADER].casefold() == CALLBOARD
                status, retry_after = answer.status, answer.headers.get("Retry-After")
        except (aiohttp.ClientConnectorError, ConnectionRefusedError) as error:
            raise ServerAway from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerSilent from error
        return Answer(status, _parsed(data), _seconds(retry_after))


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise NoJson from None
    if not isinstance(found, dict):
        raise NoJson
    return found


def _seconds(text: str | None) -> float | None:
    with contextlib.suppress(ValueError):
        return min(max(0.0, float(text or "")), 3600.0)
    return None
