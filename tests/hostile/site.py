"""A Callboard with real engines under memory limits, and what its processes are held to."""

import asyncio
import itertools
import json
import resource
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from callboard_contracts.errors import CATALOGUE, ErrorCode
from tests.hostile.targets import ordinary_dialects
from tests.protocols.dialect import JSON, Dialect, TextDialect
from tests.protocols.suite import read_error
from tests.protocols.tenants import ADMIN_TOKEN
from tests.support.children import Child
from tests.support.deployment import CHAT_MODEL, HEARING_MODEL, SPEECH_MODEL, Deployment
from tests.support.memory import MIB, MemoryWatch
from tests.support.models import CHAT_MODEL as BUILT_IN_CHAT
from tests.support.models import SPEECH_MODEL as BUILT_IN_SPEECH
from tests.support.models import VOICE, built_in_config
from tests.support.processes import Table, merged

WHISPER = "whisper-base"
WORKER_LIMIT_BYTES = 3072 * MIB
SERVICE_LIMIT_BYTES = 1536 * MIB
MAX_CONNECTIONS = 400
ANSWER_TIMEOUT_S = 90.0
READ_BY = {
    "af_heart": "The owl is here. 猫",
    "bf_emma": "Hello.",
    "ef_dora": "Hola.",
    "ff_siwis": "Bonjour.",
    "hf_alpha": "नमस्ते।",
    "if_sara": "Ciao.",
    "jf_alpha": "こんにちは。",
    "pf_dora": "Olá.",
    "zf_xiaobei": "你好。",
}
"""A voice of each language, with a text that its reader, or that of another script, has to read."""
STRANGER = "127.0.0.2"
"""The address of attackers without a key; neighbours come from 127.0.0.1."""
MOST_SHOWN = 300
STREAMS = ("text/event-stream", "application/x-ndjson")
"""The types of streams."""
NOT_IMPLEMENTED = 501
"""What a path answers that clients ask and that nothing stands behind."""


def config(*, hearing: bool) -> Table:
    """The built-in engines under the names that the dialects ask for, with short replies and a short patience."""
    pool = {"backend": "faster_whisper", "model_file": WHISPER, "threads": 1}
    # Its forms and sounds are small, so that many of them may come.
    heard = {"max_upload_bytes": 256 * 1024, "max_audio_s": 30}
    ear: Table = {"pools": {"stalls": pool}, "models": {HEARING_MODEL: {"pool": "stalls"}}, **heard}
    # With one thread an engine does not wait for a thread that a loaded machine keeps from its processor.
    one_thread: Table = {"pools": {"local": {"threads": 1}}}
    # A prompt cache fills up to its bound, which would look like memory that is not given back.
    no_cache: Table = {"chat": {"pools": {"local": {"prompt_cache_mib": 0}}}}
    built_in = merged(merged(built_in_config(), {"chat": one_thread, "tts": one_thread}), no_cache)
    chat, speech = built_in["chat"]["models"][BUILT_IN_CHAT], built_in["tts"]["models"][BUILT_IN_SPEECH]
    return {
        "edge": {"admin_token": ADMIN_TOKEN, "body_timeout_s": 5, "max_connections": MAX_CONNECTIONS},
        "chat": {
            "pools": built_in["chat"]["pools"],
            "models": {CHAT_MODEL: {**chat, "aliases": [], "max_output_tokens": 32}},
            "default_model": CHAT_MODEL,
        },
        "tts": {
            "pools": built_in["tts"]["pools"],
            "models": {SPEECH_MODEL: {**speech, "aliases": [], "voice_aliases": {"tenor": VOICE, "alto": VOICE}}},
            "max_input_characters": 60,
        },
        "stt": ear if hearing else {},
        "horde": {"submits_per_s": 0, "submits_per_minute": 0, "polls_per_minute": 0, "others_per_minute": 0},
        "quota": {
            "anonymous_tier": "anonymous",
            "default_tier": "standard",
            "tiers": {"anonymous": {"jobs_at_once": 2}, "standard": {}, "attacker": {"jobs_at_once": 4}},
            "lease_margin_s": 2,
            "reap_interval_s": 1,
        },
    }


@dataclass(frozen=True, slots=True)
class Reply:
    """What an attack got back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Site:
    """The processes under attack; `faults` are inputs that were answered wrongly, each kept as a file."""

    def __init__(self, folder: Path, *, speech: bool, hearing: bool) -> None:
        self.folder = folder
        self.speech = speech
        self.hearing = hearing
        self.deployment = Deployment(folder, config(hearing=hearing), log_level="info")
        self.faults: list[str] = []
        self.answers = 0
        """How many requests of attackers were answered."""
        self._numbers = itertools.count(1)
        self._children: dict[str, Child] = {}
        self.key = ""
        self.neighbour_key = ""

    def start(self) -> None:
        """Starts everything and puts each process under its limit."""
        deployment = self.deployment
        deployment.start(rooms=1, speakers=1 if self.speech else 0)
        if self.hearing:
            deployment.add_recogniser().wait_ready()
        self._children = deployment.children
        workers = {service.name for service in (*deployment.chats, *deployment.speakers, *deployment.recognisers)}
        for name, child in self._children.items():
            size_bytes = WORKER_LIMIT_BYTES if name in workers else SERVICE_LIMIT_BYTES
            resource.prlimit(child.pid, resource.RLIMIT_DATA, (size_bytes, size_bytes))
        self.key = deployment.create_key("attacker")
        self.neighbour_key = deployment.create_key("standard")
        if self.speech:
            self._speak_every_language()

    def _speak_every_language(self) -> None:
        """Has each language spoken once: what a reader loads with its first text is kept for good, and no leak."""
        for voice, text in READ_BY.items():
            body = {"model": SPEECH_MODEL, "voice": voice, "input": text, "response_format": "pcm"}
            request = urllib.request.Request(
                f"{self.url}/v1/audio/speech",
                json.dumps(body).encode(),
                {"Content-Type": JSON, "Authorization": f"Bearer {self.neighbour_key}"},
            )
            with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
                assert answer.read(), voice

    @property
    def url(self) -> str:
        """The edge's root."""
        return self.deployment.root_url()

    @property
    def port(self) -> int:
        """The edge's port."""
        return int(self.deployment.edges[0].config["edge"]["port"])

    def dialects(self) -> list[Dialect]:
        """How ordinary clients ask."""
        return ordinary_dialects(speech=self.speech)

    def attackers(self, *, address: str = "127.0.0.1") -> aiohttp.ClientSession:
        """A session for attacks; each request has a connection of its own."""
        connector = aiohttp.TCPConnector(force_close=True, limit=0, local_addr=(address, 0))
        # An answer that is compressed, or a body that is not what it says, is the attack's own business.
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(ANSWER_TIMEOUT_S))

    def fault(self, what: str, raw: bytes) -> None:
        """Keeps an input that was answered wrongly."""
        file = self.folder / f"fault-{next(self._numbers)}"
        file.write_bytes(raw)
        self.faults.append(f"{what}; the input: {file}")

    async def send(
        self,
        session: aiohttp.ClientSession,
        dialect: Dialect,
        path: str,
        raw: bytes,
        *,
        method: str = "POST",
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        busy_allowed: bool = False,
    ) -> Reply | None:
        """Sends a request with the attacker's key, or another one, and keeps it where the answer is a fault.

        None where no whole answer came. A 503 is right only where it is `overloaded` and `busy_allowed`.
        """
        given = dialect.own_key or self.key if key is None else key
        sent = {"Content-Type": JSON, **(dialect.auth_headers(given) if given else {}), **(headers or {})}
        whole = f"{method} {path}\n{headers or {}}\n\n".encode() + raw
        try:
            url = URL(self.url + path, encoded=True)
            data = aiohttp.BytesPayload(raw) if len(raw) < MIB else _pieces(raw)
            async with session.request(method, url, data=data, headers=sent) as answer:
                reply = Reply(answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            # A server may hang up on a sender whose body is refused unread.
            if not (isinstance(error, aiohttp.ClientError) and len(raw) > MIB):
                self.fault(f"no answer ({type(error).__name__})", whole)
            return None
        if reply.status == 408 and not reply.body:
            # This process was too slow to send its headers, so no path was known yet.
            return None
        self.answers += 1
        if problem := problem_of(dialect, reply, busy_allowed=busy_allowed):
            self.fault(problem, whole)
        return reply

    @property
    def memory(self) -> MemoryWatch:
        """What the processes keep in memory."""
        return MemoryWatch(self._children, self.deployment.nats)

    def check_processes(self) -> None:
        """Fails where a process died or is not ready."""
        for name, child in self._children.items():
            assert child.alive, f"{name} died with {child.process.returncode}: {child.output()[-2000:]}"
        for service in self.deployment.services:
            service.wait_ready(10)

    def check_faults(self) -> None:
        """Fails where an input was answered wrongly since the last check."""
        faults, self.faults = self.faults, []
        assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:20])


async def _pieces(raw: bytes) -> Any:
    for start in range(0, len(raw), MIB):
        yield raw[start : start + MIB]
        await asyncio.sleep(0)


def problem_of(dialect: Dialect, reply: Reply, *, busy_allowed: bool) -> str | None:
    """What is wrong with an answer: a failure of ours, or an error that is not in the protocol's form."""
    shown = reply.body[:MOST_SHOWN]
    if reply.status == NOT_IMPLEMENTED:
        return None
    try:
        if reply.status >= 400 and reply.status != dialect.accepted_status:
            error = read_error(dialect, reply.body)
            if (reply.status, error.code) not in {*dialect.errors.values(), *dialect.own_errors}:
                return f"no error of the protocol: {reply.status} {shown!r}"
            if (reply.status, error.code) == dialect.errors[ErrorCode.OVERLOADED] and busy_allowed:
                return None if "Retry-After" in reply.headers else "overloaded without Retry-After"
            return None if reply.status < 500 else f"{reply.status} {shown!r}"
        if reply.headers.get("Content-Type", "").startswith(STREAMS) and isinstance(dialect, TextDialect):
            seen = dialect.read_stream(reply.body)
            codes = {dialect.errors[code][1] for code, kind in CATALOGUE.items() if kind.status >= 500}
            if seen.error is not None and seen.error.code in codes:
                return f"a stream that failed: {reply.body[-MOST_SHOWN:]!r}"
            if not seen.complete:
                return f"a stream without its end: {reply.body[-MOST_SHOWN:]!r}"
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        return f"not in the protocol's form ({type(error).__name__}): {reply.status} {shown!r}"
    return None
