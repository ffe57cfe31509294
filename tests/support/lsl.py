"""What a script in OpenSimulator or Second Life does over HTTP: its headers, limits, timers and patience.

The simulator cuts bodies off, holds requests back that come too fast, and shows a script one answer as a whole. A
script polls on a timer, stops at every status but 200, 425 and 499, takes only the answer that names its newest
message, and un-escapes a text once more before it prints it.
"""

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp

BODY_BYTES = 16_384
LIST_BYTES = 2_048
"""What a script sees of an answer where it asks for no more."""
WHOLE_REQUEST_S = 30.0
PER_SECOND = 1.0
BURST = 3
GOES_ON = frozenset({425, 499})
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\r": "\r", '\\"': '"', "\\\\": "\\"}


@dataclass(frozen=True, slots=True)
class Heard:
    """What a script was told: the status, and as much of the body as the simulator lets through."""

    status: int
    text: str


class Simulator:
    """Sends the requests of one object, no faster than the simulator does."""

    def __init__(self, session: aiohttp.ClientSession, url: str, owner: str = "", name: str = "Frog") -> None:
        self._session = session
        self._url = url
        self._headers = {
            "X-SecondLife-Shard": "OpenSim",
            "X-SecondLife-Object-Name": name,
            "X-SecondLife-Object-Key": str(uuid4()),
            "X-SecondLife-Region": "Pond (1000, 1000)",
            "X-SecondLife-Local-Position": "(128, 128, 22)",
            "X-SecondLife-Owner-Name": "Ada Lovelace",
            "X-SecondLife-Owner-Key": owner or str(uuid4()),
            "Connection": "close",
        }
        self._credit = float(BURST)
        self._credit_at = asyncio.get_running_loop().time()
        self.held_back = 0

    async def get(self, path: str, limit_bytes: int = BODY_BYTES) -> Heard | None:
        """Gets a path; None where the simulator holds the request back."""
        return await self._send("GET", path, None, limit_bytes)

    async def post(self, path: str, body: Any, limit_bytes: int = BODY_BYTES) -> Heard | None:
        """Posts a body; slashes are escaped, as the simulator's encoder does."""
        return await self._send("POST", path, encoded(body), limit_bytes)

    async def _send(self, method: str, path: str, body: bytes | None, limit_bytes: int) -> Heard | None:
        now = asyncio.get_running_loop().time()
        self._credit = min(float(BURST), self._credit + (now - self._credit_at) * PER_SECOND)
        self._credit_at = now
        if self._credit < 1:
            self.held_back += 1
            return None
        self._credit -= 1
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(WHOLE_REQUEST_S),
                self._session.request(
                    method, self._url + path, data=body, headers=headers, skip_auto_headers=("Accept-Encoding",)
                ) as reply,
            ):
                raw = await reply.read()
                assert "Content-Encoding" not in reply.headers
                return Heard(reply.status, raw[:limit_bytes].decode("utf-8", "replace").replace("\r\n", "\n"))
        except TimeoutError:
            return Heard(499, "")
        except aiohttp.ClientError:
            return Heard(499, "")


@dataclass
class Script:
    """A script with a timer: it asks, polls, and prints what it is told.

    `said` is what it printed of answers, `complaints` what it printed of anything else; after one it stops polling.
    """

    simulator: Simulator
    poll_s: float = 1.0
    patience_s: float = 300.0
    said: list[str] = field(default_factory=list[str])
    complaints: list[Heard] = field(default_factory=list[Heard])

    async def asks(self, path: str, body: dict[str, Any], poll: str, text_field: str = "response") -> str | None:
        """Posts a message and polls for its answer; returns the answer as it was printed, or None."""
        message_id = body["message_id"]
        loop = asyncio.get_running_loop()
        until = loop.time() + self.patience_s
        while (heard := await self.simulator.post(path, body)) is None:
            # The visitor says it again.
            await asyncio.sleep(self.poll_s)
        while True:
            if heard is not None:
                if heard.status == 200 and (text := _answer(heard, message_id, text_field)) is not None:
                    self.said.append(text)
                    return text
                if heard.status not in {200, *GOES_ON}:
                    self.complaints.append(heard)
                    return None
            if loop.time() > until:
                return None
            await asyncio.sleep(self.poll_s)
            heard = await self.simulator.get(poll)


def encoded(body: Any) -> bytes:
    """A body as the simulator writes it: slashes escaped, and a chat line that begins with a brace embedded raw."""
    literals = ("true", "false", "null")
    raw = {key: one for key, one in body.items() if isinstance(one, str) and (one[:1] in ("{", "[") or one in literals)}
    marks = {key: f"@@{n}@@" for n, key in enumerate(raw)}
    text = json.dumps({**body, **marks}, ensure_ascii=False).replace("/", "\\/")
    for key, mark in marks.items():
        text = text.replace(json.dumps(mark), raw[key])
    return text.encode()


def query(**fields: str) -> str:
    """A query as most scripts write it: values as they are, but for what no URL can hold."""
    return "?" + "&".join(f"{key}={quote(value, safe='-_.~!*()')}" for key, value in fields.items())


def offers(listed: Heard, name: str) -> bool:
    """Whether a list names a model or voice, as scripts look it up: by searching the JSON's text."""
    return f'"{name}"' in listed.text


def _answer(heard: Heard, message_id: str, text_field: str) -> str | None:
    try:
        body = json.loads(heard.text)
    except ValueError:
        return None
    if not isinstance(body, dict) or body.get("message_id") != message_id or text_field not in body:
        return None
    return re.sub(r'\\[ntr"\\]', lambda match: _ESCAPES[match[0]], body[text_field])
