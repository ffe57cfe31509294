"""The engines that a volunteer can lend: each continues a prompt as the Horde's jobs ask, in the engine's own wire."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar, Literal, get_args

import aiohttp

from callboard_cli.volunteer.errors import EngineAway, EngineFailed
from callboard_cli.volunteer.streams import events, json_lines

Kind = Literal["koboldcpp", "llamacpp", "ollama", "openai"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ASK_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 120.0
"""The longest silence in a reply, the reading of a long prompt included."""
MAX_SENT_STOPS = 4
"""So many stop sequences every OpenAI-compatible server takes; the others are looked for here."""
Payload = Mapping[str, Any]
_TAGS = {
    "{{[INPUT]}}": "\n### Instruction:\n",
    "{{[OUTPUT]}}": "\n### Response:\n",
    "{{[SYSTEM]}}": "\n",
    "{{[INPUT_END]}}": "",
    "{{[OUTPUT_END]}}": "",
    "{{[SYSTEM_END]}}": "",
}
"""What KoboldAI Lite wrote around turns before it left that to the engine."""


class Engine(ABC):
    """One engine at a URL; a key, where it needs one, goes with every request."""

    kind: ClassVar[Kind]
    replaces_tags: ClassVar[bool] = False
    """Whether it puts its model's own texts in place of the tags that KoboldAI Lite writes around turns."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None = None) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @abstractmethod
    async def models(self) -> Sequence[str]:
        """The names of its models; raises EngineFailed."""

    async def context_tokens(self) -> int | None:
        """How long its context is, where it tells; raises EngineFailed."""
        return None

    @abstractmethod
    def stream(self, model: str, payload: Payload) -> AsyncGenerator[str]:
        """Writes a job's text piece by piece; closing it stops the engine. Raises EngineFailed."""

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer; raises EngineFailed."""
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
        try:
            async with self._session.request(
                method, self._url + path, json=body, headers=self._headers, timeout=timeout
            ) as answer:
                if answer.status >= 400:
                    raise EngineFailed(f"the engine answers {answer.status}")
                return await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineAway(f"the engine cannot be reached ({type(error).__name__})") from error
        except ValueError as error:
            raise EngineFailed("the engine answers no JSON") from error

    @asynccontextmanager
    async def _begun(self, path: str, body: Payload) -> AsyncGenerator[aiohttp.ClientResponse]:
        """An answer that is read as it is written."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ASK_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S)
        try:
            async with self._session.post(
                self._url + path, json=body, headers=self._headers, timeout=timeout
            ) as answer:
                if answer.status in {429, 503}:
                    raise EngineAway(f"the engine answers {answer.status}")
                if answer.status >= 400:
                    raise EngineFailed(f"the engine answers {answer.status}")
                yield answer
        except (aiohttp.ClientConnectorError, ConnectionRefusedError) as error:
            raise EngineAway("the engine cannot be reached") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineFailed(f"the engine broke off ({type(error).__name__})") from error


class KoboldCpp(Engine):
    """KoboldCpp, which takes jobs as they are."""

    kind = "koboldcpp"
    replaces_tags = True

    async def models(self) -> Sequence[str]:
        """The one model, as `koboldcpp/NAME`."""
        return [str(_field(await self.ask("GET", "/api/v1/model"), "result"))]

    async def context_tokens(self) -> int | None:
        """The context that it was started with."""
        return _whole(await self.ask("GET", "/api/extra/true_max_context_length"), "value")

    async def stream(self, model: str, payload: Payload) -> AsyncGenerator[str]:
        """Writes by `/api/extra/generate/stream`."""
        del model
        body = {**payload, "quiet": True}
        async with self._begun("/api/extra/generate/stream", body) as answer, aclosing(events(answer)) as found:
            async for event in found:
                yield _text(event, "token")


class LlamaCpp(Engine):
    """The server of llama.cpp."""

    kind = "llamacpp"

    async def models(self) -> Sequence[str]:
        """The one model."""
        return _names(await self.ask("GET", "/v1/models"))

    async def context_tokens(self) -> int | None:
        """The context of one slot."""
        props = await self.ask("GET", "/props")
        settings = props.get("default_generation_settings") if isinstance(props, dict) else None
        return _whole(settings, "n_ctx")

    async def stream(self, model: str, payload: Payload) -> AsyncGenerator[str]:
        """Writes by `/completion`; a prompt that is too long loses its beginning."""
        del model
        fields = {
            "temperature": "temperature",
            "top_k": "top_k",
            "top_p": "top_p",
            "min_p": "min_p",
            "typical": "typical_p",
            "rep_pen": "repeat_penalty",
            "rep_pen_range": "repeat_last_n",
            "dynatemp_range": "dynatemp_range",
            "dynatemp_exponent": "dynatemp_exponent",
            "stop_sequence": "stop",
            "sampler_seed": "seed",
        }
        length = int(payload["max_length"])
        body = {**_renamed(payload, fields), "n_predict": length, "stream": True, "cache_prompt": True}
        room = max(1, int(payload["max_context_length"]) - length)
        prompt: str | list[int] = str(payload["prompt"])
        if len(payload["prompt"]) > room:
            counted = await self.ask("POST", "/tokenize", {"content": prompt, "add_special": True})
            tokens = _field(counted, "tokens")
            if isinstance(tokens, list) and len(tokens) > room:
                prompt = tokens[-room:]
        async with (
            self._begun("/completion", {**body, "prompt": prompt}) as answer,
            aclosing(events(answer)) as found,
        ):
            async for event in found:
                if "error" in event:
                    raise EngineFailed("the engine reports an error")
                yield _text(event, "content")
                if event.get("stop") is True:
                    return


class OpenAi(Engine):
    """Any server with OpenAI's completions, such as vLLM; the URL may end in its version."""

    kind = "openai"

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None = None) -> None:
        url = url.rstrip("/")
        super().__init__(session, url if url.rpartition("/")[2].startswith("v") else f"{url}/v1", key)

    async def models(self) -> Sequence[str]:
        """All that it lists."""
        return _names(await self.ask("GET", "/models"))

    async def stream(self, model: str, payload: Payload) -> AsyncGenerator[str]:
        """Writes by `/completions`, with the fields that every such server knows."""
        body = {
            **_renamed(payload, {"temperature": "temperature", "top_p": "top_p"}),
            "model": model,
            "prompt": payload["prompt"],
            "max_tokens": payload["max_length"],
            "stream": True,
        }
        stops = payload.get("stop_sequence") or []
        if stops:
            body["stop"] = list(stops[:MAX_SENT_STOPS])
        async with self._begun("/completions", body) as answer, aclosing(events(answer)) as found:
            async for event in found:
                if "error" in event:
                    raise EngineFailed("the engine reports an error")
                choices = event.get("choices") or [{}]
                yield _text(choices[0], "text")


class Ollama(Engine):
    """An Ollama server, asked without its templates."""

    kind = "ollama"

    async def models(self) -> Sequence[str]:
        """All that it has."""
        found = _field(await self.ask("GET", "/api/tags"), "models")
        return [str(one["name"]) for one in found if isinstance(one, dict) and "name" in one] if found else []

    async def stream(self, model: str, payload: Payload) -> AsyncGenerator[str]:
        """Writes by `/api/generate` from the raw prompt."""
        fields = {
            "temperature": "temperature",
            "top_k": "top_k",
            "top_p": "top_p",
            "min_p": "min_p",
            "typical": "typical_p",
            "rep_pen": "repeat_penalty",
            "rep_pen_range": "repeat_last_n",
            "stop_sequence": "stop",
            "sampler_seed": "seed",
        }
        options = {
            **_renamed(payload, fields),
            "num_predict": payload["max_length"],
            "num_ctx": payload["max_context_length"],
        }
        body = {"model": model, "prompt": payload["prompt"], "raw": True, "stream": True, "options": options}
        async with self._begun("/api/generate", body) as answer, aclosing(json_lines(answer)) as found:
            async for line in found:
                if "error" in line:
                    raise EngineFailed("the engine reports an error")
                yield _text(line, "response")
                if line.get("done") is True:
                    return


ENGINES: Mapping[Kind, type[Engine]] = {engine.kind: engine for engine in (KoboldCpp, LlamaCpp, Ollama, OpenAi)}
_SIGNS: Sequence[tuple[Kind, str, str]] = (
    ("koboldcpp", "/api/extra/version", "version"),
    ("ollama", "/api/version", "version"),
    ("llamacpp", "/props", "default_generation_settings"),
)
"""What tells an engine: a path of its own, and a field of the answer there."""


async def find_engine(session: aiohttp.ClientSession, url: str, kind: Kind | None, key: str | None) -> Engine:
    """The engine at a URL, found out by what it answers unless its kind is given.

    Raises:
        EngineFailed: nothing answers there, or nothing that is known.
    """
    if kind is not None:
        return ENGINES[kind](session, url, key)
    for found, path, field in _SIGNS:
        engine = ENGINES[found](session, url, key)
        try:
            answer = await engine.ask("GET", path)
        except EngineAway:
            raise
        except EngineFailed:
            continue
        if isinstance(answer, dict) and field in answer:
            return engine
    openai = OpenAi(session, url, key)
    await openai.models()
    return openai


async def until_stop(pieces: AsyncGenerator[str], stops: Sequence[str], most: int) -> AsyncGenerator[str]:
    """The pieces up to the first stop sequence, which is part of the text, and up to so many characters."""
    text = ""
    longest = max(map(len, stops), default=0)
    async with aclosing(pieces) as found:
        async for piece in found:
            if not piece:
                continue
            begin = max(0, len(text) - longest + 1)
            text += piece
            ends = [at + len(stop) for stop in stops if stop and (at := text.find(stop, begin)) >= 0]
            end = min([*ends, most]) if ends or len(text) > most else None
            if end is not None:
                yield piece[: len(piece) - (len(text) - end)]
                return
            yield piece
            # A generator that is never awaited elsewhere would keep a fast engine's pieces from being reported.
            await asyncio.sleep(0)


def without_tags(payload: Payload) -> dict[str, Any]:
    """A job for an engine that knows no tags of turns: with Alpaca's texts in their place, and in stop sequences."""

    def replaced(text: str) -> str:
        for tag, written in _TAGS.items():
            text = text.replace(tag, written)
        return text

    stops = [replaced(stop).strip() if stop in _TAGS else stop for stop in payload["stop_sequence"]]
    return {
        **payload,
        "prompt": replaced(payload["prompt"]),
        "stop_sequence": list(dict.fromkeys(stop for stop in stops if stop)),
    }


def _renamed(payload: Payload, fields: Mapping[str, str]) -> dict[str, Any]:
    return {to: payload[name] for name, to in fields.items() if payload.get(name) is not None}


def _field(found: Any, name: str) -> Any:
    if not isinstance(found, dict) or name not in found:
        raise EngineFailed(f"the engine's answer has no {name}")
    return found[name]


def _whole(found: Any, name: str) -> int | None:
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, int) and value > 0 else None


def _names(found: Any) -> list[str]:
    return [str(one["id"]) for one in _field(found, "data") if isinstance(one, dict) and "id" in one]


def _text(event: Any, name: str) -> str:
    value = event.get(name) if isinstance(event, dict) else None
    return value if isinstance(value, str) else ""
