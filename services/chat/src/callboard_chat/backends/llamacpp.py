"""llama.cpp inside this process, through xllamacpp.

xllamacpp's server runs on threads of its own behind a loopback port with a key that only this process knows. Closing
a request's connection frees its slot. Prompts are worked off in small batches and report their progress, because
llama.cpp looks for a closed connection only between batches and only when it has something to write.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence, Set
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import xllamacpp
from pydantic_core import to_json

from callboard_chat.backends.engine_http import EngineHttp
from callboard_chat.backends.gguf import GgufHeader, pools_texts, read_header
from callboard_chat.backends.llamacpp_embedding import embed
from callboard_chat.backends.llamacpp_grammar import Grammar, ReplyChecker, grammar_of, literals, thoughts_after
from callboard_chat.backends.llamacpp_prompt import Prompts
from callboard_chat.backends.llamacpp_request import SAMPLING, TEMPLATE_FIELDS, abilities_of
from callboard_chat.backends.llamacpp_server import make_embeddings, server_params
from callboard_chat.backends.openai_replies import EventReader, ReplyReader
from callboard_chat.backends.openai_wire import Json, refused
from callboard_chat.domain.models import tools_or_format, unsupported_tools
from callboard_chat.domain.ports import Chunk, Continuation, Embedded, PromptTokens
from callboard_chat.domain.prefill import cannot_continue
from callboard_chat.domain.prompt_formats import OwnTurns
from callboard_chat.domain.tool_calls import CallForm
from callboard_chat.domain.vocabulary import Vocabulary
from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.tokens import DescribeModelReply
from callboard_contracts.workers import Ability
from callboard_worker.engine import EngineError, EngineFailed, EngineRefused, EngineUnavailable

log = logging.getLogger(__name__)

# The package has no types.
llama: Any = xllamacpp

CALL_TIMEOUT_S = 10.0
TOKENIZE_TIMEOUT_S = 30.0
"""A text of a megabyte, as a prompt that is to be cut may be, takes 2.4 s on two busy cores."""
EMBEDDING: frozenset[Ability] = frozenset({"embedding"})
MAX_ERROR_BYTES = 65_536
MAX_ANSWER_BYTES = 256 * 1024 * 1024
CONNECT_TIMEOUT_S = 5.0


class LlamaCppEngine:
    """One GGUF model with `slots` replies at once, each with a context of `context_tokens`.

    `prompt_cache_mib` bounds the memory for prompts that have lost their slot to another; `parse_special` names the
    models in whose messages control tokens act as such. With `embeddings` each text is read in one batch, because a
    model for embeddings looks at all of it at once.
    """

    in_process = True
    honours_prefill = True

    def __init__(
        self,
        model: Path,
        slots: int,
        context_tokens: int,
        threads: int | None,
        watchdog_timeout_s: float = 30.0,
        *,
        prompt_cache_mib: int = 0,
        parse_special: Set[str] = frozenset(),
        embeddings: bool = False,
    ) -> None:
        self._embeddings = embeddings
        self._model = model
        self._slots = slots
        self._context_tokens = context_tokens
        self._threads = threads
        self._prompt_cache_mib = prompt_cache_mib
        self._parse_special = parse_special
        self._prompts: Prompts | None = None
        self._header: GgufHeader | None = None
        self._vocabulary = Vocabulary()
        self._template = ""
        self._key = secrets.token_hex(16)
        self._server: Any = None
        self._http: EngineHttp | None = None
        self._abilities: frozenset[Ability] = frozenset()
        self._watchdog_timeout_s = watchdog_timeout_s
        self._unanswered_since: float | None = None

    @property
    def abilities(self) -> frozenset[Ability]:
        """What the engine can do; tools and reasoning depend on the model's chat template."""
        return self._abilities

    @property
    def call_form(self) -> CallForm | None:
        """How the model's chat template writes tool calls; None where it has no form that can be read."""
        return self._prompts.call_form if self._prompts else None

    @property
    def sampling(self) -> frozenset[str]:
        """The sampling fields that are honoured; stop sequences are cut by the worker, which knows which it was."""
        return SAMPLING

    async def load(self) -> None:
        """Reads the model; the event loop stands still for most of that, since xllamacpp keeps the interpreter."""
        if not await asyncio.to_thread(self._model.is_file):
            raise EngineUnavailable(f"no model file at {self._model}; `callboard models fetch` puts it there")
        try:
            pools = await asyncio.to_thread(pools_texts, self._model) if self._embeddings else True
            self._server = await asyncio.to_thread(self._start, pools)
        except (RuntimeError, ValueError):
            raise EngineUnavailable(f"llama.cpp cannot load {self._model}: not a GGUF model, or no memory") from None
        self._http = EngineHttp(
            str(self._server.listening_address),
            {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
            CONNECT_TIMEOUT_S,
            # The server drops connections that it has finished with.
            keep=False,
        )
        properties = await self._call("GET", "/props")
        self._abilities = abilities_of(properties) | (EMBEDDING if self._embeddings else frozenset())
        try:
            self._header = header = await asyncio.to_thread(read_header, self._model)
            self._vocabulary = await asyncio.to_thread(Vocabulary, header.tokens, header.types)
        except ValueError:
            raise EngineUnavailable(f"the vocabulary of {self._model} cannot be read") from None
        self._header = replace(header, tokens=[], types=[])
        self._template = str(properties.get("chat_template", ""))
        end = str(properties.get("eos_token", ""))
        prompts = Prompts(self._call, self._context_tokens, self._vocabulary, self._template, self._parse_special, end)
        await prompts.learn_template()
        self._prompts = prompts
        log.info("engine_loaded", extra={"slots": self._slots, "context_tokens": self._context_tokens})

    async def ready(self) -> str | None:
        """Asks the server for its slots, which only the thread that does all the work can tell."""
        if self._unanswered_since is None:
            self._unanswered_since = asyncio.get_running_loop().time()
        try:
            await self.busy_slots()
        except EngineError:
            return "engine: no answer"
        self._unanswered_since = None
        return None

    async def stream(
        self, request: ChatRequest, continuation: Continuation | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Streams one reply; see `ChatEngine`."""
        self._check_tools(request)
        prompts = self._loaded()
        grammar = await grammar_of(request.output_format)
        checker = ReplyChecker(grammar, continuation.text if continuation else "") if grammar else None
        call = await prompts.call_for(request, continuation)
        body = call.body
        if grammar is not None:
            body |= await self._grammar_fields(request, grammar, body, continuation)
        said = continuation.tokens if continuation else 0
        left = request.max_output_tokens - said if call.max_tokens is None else call.max_tokens
        if left <= 0:
            yield Chunk(finish="length", prompt_tokens=call.prompt_tokens, completion_tokens=0)
            return
        reader = ReplyReader(left, prompt_tokens=call.prompt_tokens, top_logprobs=request.top_logprobs)
        if call.opening:
            yield Chunk(call.opening)
        try:
            with closing(await self._connections().request("POST", call.path, to_json(body))) as response:
                if response.status >= 400:
                    raise refused(request, response.status, await response.read_all(MAX_ERROR_BYTES))
                events = EventReader()
                while not reader.done and (data := await response.read()):
                    chunk = reader.read(events.feed(data))
                    if chunk is not None:
                        if checker is not None:
                            checker.feed(chunk.text)
                        yield call.calls.take(chunk) if call.calls else chunk
        except OSError:
            # Whether anything is missing, the reader knows.
            log.debug("engine_connection_lost")
        last = reader.last()
        if checker is not None and last.finish == "stop":
            checker.end()
        yield call.calls.take(last) if call.calls else last

    def broken_up(self, request: ChatRequest) -> ChatRequest:
        """Breaks up the control tokens of the model and of its template."""
        return self._loaded().broken_up(request)

    def own_turns(self, model: str) -> OwnTurns:
        """What the template makes of a dialogue of marked words tells."""
        return self._loaded().own_turns

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        """The tokens that the server reads for a request; see `ModelTokens`."""
        return await self._loaded().tokens(request, special=special)

    async def detokenize(self, model: str, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of tokens, as the server writes it."""
        prompts, known = self._loaded(), self._vocabulary
        # The server ends over a number that is no token's.
        if any(not 0 <= token < known.size for token in ids):
            message = f"The model has no such token; its {known.size} tokens begin at 0."
            raise EngineRefused(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=message, param="ids"))
        shown = ids if special else [token for token in ids if token not in known.control_ids]
        return await prompts.text_of(shown) if shown else ""

    async def describe(self, model: str) -> DescribeModelReply:
        """What the server and the model's file say."""
        self._loaded()
        told: Any = await self._call("GET", "/v1/models")
        about = next((each.get("meta") or {} for each in told.get("data", ())), {})
        return DescribeModelReply(
            chat_template=self._template,
            architecture=self._header.architecture if self._header else None,
            parameters=about.get("n_params"),
            quantization=about.get("ftype"),
            size_bytes=self._header.size_bytes if self._header else None,
            context_tokens=self._context_tokens,
            trained_context_tokens=about.get("n_ctx_train"),
        )

    def _loaded(self) -> Prompts:
        if self._prompts is None:
            raise EngineUnavailable
        return self._prompts

    async def embed(self, model: str, inputs: Sequence[str], context_tokens: int, *, truncate: bool) -> Embedded:
        """Makes vectors; see `ChatEngine`."""
        del model
        # The handler watches for silence.
        call = partial(self._call, timeout_s=None)
        return await embed(call, inputs, min(context_tokens, self._context_tokens), truncate=truncate)

    def _check_tools(self, request: ChatRequest) -> None:
        if not request.tools or request.tool_choice == "none":
            return
        if "tools" not in self._abilities:
            raise EngineRefused(unsupported_tools())
        if request.output_format.kind != "text":
            raise EngineRefused(tools_or_format())

    def broken(self) -> str | None:
        """Says so where the server has not answered for long: its threads cannot be stopped, only its process."""
        since = self._unanswered_since
        if since is None or asyncio.get_running_loop().time() - since <= self._watchdog_timeout_s:
            return None
        return "llama.cpp does not answer"

    async def busy_slots(self) -> int:
        """How many replies the engine itself is working on."""
        slots: Any = await self._call("GET", "/slots")
        return sum(1 for slot in slots if slot["is_processing"])

    async def close(self) -> None:
        """Stops the server; replies that run end."""
        if self._http is not None:
            self._http.close()
        # Ending the server's threads waits for the batch that is being computed.
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._server = None

    def _start(self, pools: bool) -> Any:
        params = server_params(
            self._model, self._key, self._slots, self._context_tokens, self._threads, self._prompt_cache_mib
        )
        if self._embeddings:
            make_embeddings(params, self._context_tokens, pools=pools)
        return llama.Server(params)

    async def _grammar_fields(
        self, request: ChatRequest, grammar: Grammar, body: Json, continuation: Continuation | None
    ) -> Json:
        """What a request's body says of the grammar.

        The engine follows a grammar from the first token that it writes. To have it begin earlier, with the start of a
        reply or the thoughts before it, the grammar is marked as one for tool calls, which begins with the template's
        own opening of a reply.
        """
        thinks = self._prompts is not None and self._prompts.thinks and request.mode == "chat"
        if continuation is None and not thinks:
            return {"grammar": grammar.text}
        if grammar.rule is None or request.mode != "chat":
            if continuation is not None:
                raise cannot_continue()
            return {"grammar": grammar.text}
        wanted = {name: body[name] for name in TEMPLATE_FIELDS if name in body}
        if continuation is not None:
            wanted["messages"] = wanted["messages"][:-1]
        without, with_opening = [
            str((await self._call("POST", "/apply-template", {**wanted, "add_generation_prompt": each}))["prompt"])
            for each in (False, True)
        ]
        if not with_opening.startswith(without):
            # The template ends otherwise where a reply is to follow, so its opening cannot be told.
            if continuation is not None:
                raise cannot_continue()
            return {"grammar": grammar.text}
        opening = with_opening.removeprefix(without)
        pieces = literals(await self._pieces(opening))
        thoughts = thoughts_after(opening, has_text=bool(continuation and continuation.text)) if thinks else "none"
        return {"grammar": grammar.after(pieces, thoughts), "grammar_type": "tool_calls"}

    async def _pieces(self, text: str) -> list[tuple[int, str, bool]]:
        """The tokens of a template's text: each with its own text, and whether it is a control token."""
        question = {"content": text, "add_special": False}
        tokens = (await self._call("POST", "/tokenize", {**question, "with_pieces": True}))["tokens"]
        plain = set((await self._call("POST", "/tokenize", {**question, "parse_special": False}))["tokens"])
        return [(token["id"], token["piece"], token["id"] not in plain) for token in tokens]

    async def _call(
        self, method: str, path: str, body: Json | None = None, timeout_s: float | None = CALL_TIMEOUT_S
    ) -> Json:
        try:
            async with asyncio.timeout(TOKENIZE_TIMEOUT_S if path == "/tokenize" else timeout_s):
                asked = to_json(body) if body is not None else b""
                with closing(await self._connections().request(method, path, asked)) as response:
                    data = await response.read_all(MAX_ANSWER_BYTES)
            if response.status >= 400:
                raise EngineFailed(f"{path} answered {response.status}")
            return json.loads(data)
        except OSError:
            raise EngineUnavailable from None
        except ValueError:
            raise EngineFailed(f"{path} answered without JSON") from None

    def _connections(self) -> EngineHttp:
        if self._http is None:
            raise EngineUnavailable
        return self._http
