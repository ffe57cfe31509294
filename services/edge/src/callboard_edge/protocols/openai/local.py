"""Requests of clients that were written for local servers, such as SillyTavern, KoboldAI Lite and the Horde's workers.

They put fields of KoboldCpp, text-generation-webui, llama.cpp and vLLM beside OpenAI's. A request that has one of
these is read as leniently as those servers read it; all others keep to OpenAI's ranges.
"""

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from callboard_contracts.chat import OutputFormat, Sampling
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import Catalogue, ChatModel
from callboard_edge.http.bodies import parse
from callboard_edge.http.call import Call
from callboard_edge.http.lenient import Flag, LenientBody, Whole
from callboard_edge.http.local_bodies import LocalSamplingBody, Schema
from callboard_edge.http.local_sampling import grammar_format, local_sampling
from callboard_edge.protocols.openai.bodies import (
    MAX_TOP_LOGPROBS,
    ChatFields,
    Prompt,
    ResponseFormat,
    SamplingBody,
    StreamOptions,
    UserName,
)
from callboard_edge.protocols.openai.sampling import sampling

TOP_LOGPROBS = 10
"""How many alternatives come with each token where a client only says that it wants log probabilities."""

S = TypeVar("S", bound=BaseModel)
L = TypeVar("L", bound=BaseModel)


class LocalBody(LocalSamplingBody):
    """What both text paths take of these clients beside the sampling fields."""

    model: str | None = None
    user: UserName = None
    max_tokens: Whole = None
    max_completion_tokens: Whole = None
    n_predict: Whole = None
    num_predict: Whole = None
    num_ctx: Whole = None
    truncate_prompt_tokens: Whole = None
    n: Whole = None
    logprobs: bool | int | None = None
    top_logprobs: Whole = None
    n_probs: Whole = None
    grammar: str | None = None
    grammar_string: str | None = None
    guided_grammar: str | None = None
    json_schema: Schema = None
    guided_json: Schema = None
    guided_choice: list[str] | None = None
    guided_regex: str | None = None
    trim_stop: Flag = None
    include_stop_str_in_output: Flag = None

    @property
    def contexts(self) -> tuple[int | None, ...]:
        """How long prompt and reply may be together, by the names of all these servers."""
        return (self.max_context_length, self.truncation_length, self.num_ctx, self.truncate_prompt_tokens)

    @property
    def lengths(self) -> tuple[int | None, ...]:
        """How long the reply may be, by the names of all these servers."""
        openai = (self.max_completion_tokens, self.max_tokens)
        return (*openai, self.max_length, self.max_new_tokens, self.n_predict, self.num_predict)

    @property
    def keeps_stop(self) -> bool:
        """Whether the stop sequence that ends the reply is a part of it."""
        return self.include_stop_str_in_output is True or self.trim_stop is False

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives are wanted with each token's log probability; None for no log probabilities."""
        wanted = self.logprobs if self.logprobs is not None else self.n_probs
        if wanted is None or wanted is False or (wanted == 0 and self.logprobs is None):
            return None
        top = self.top_logprobs if self.top_logprobs is not None else TOP_LOGPROBS if wanted is True else wanted
        return max(0, min(MAX_TOP_LOGPROBS, top))


class LocalCompletionBody(LocalBody):
    """A request for the continuation of a text, or of each of several texts, from such a client."""

    prompt: Prompt
    memory: str | None = None
    stream: Flag = None
    stream_options: StreamOptions | None = None
    echo: Flag = None
    suffix: str | None = None
    best_of: Whole = None
    response_format: ResponseFormat | None = None
    replace_instruct_placeholders: Flag = None


class LocalChatBody(ChatFields, LocalBody):
    """A request for a reply to a conversation from such a client."""

    model_config = ConfigDict(strict=False)


_OWN_MARKS = frozenset(
    {
        *("n_predict", "num_predict", "num_ctx", "truncate_prompt_tokens", "n_probs"),
        *("grammar", "grammar_string", "guided_grammar", "json_schema", "guided_json", "guided_choice", "guided_regex"),
        *("trim_stop", "include_stop_str_in_output", "memory", "replace_instruct_placeholders"),
        *("add_bos_token", "skip_special_tokens", "spaces_between_special_tokens", "cache_prompt", "use_beam_search"),
    }
)
_PLAIN = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("seed", "stop", "logit_bias"),
    }
)
"""Sampling fields that any client of OpenAI's sends."""
MARKS = (frozenset(LocalSamplingBody.model_fields) - _PLAIN) | _OWN_MARKS
"""Fields that only clients of local servers send."""
_MARKS = frozenset(mark.encode() for mark in MARKS)
_KEY = re.compile(rb'"([a-z_]+)"\s*:')
_FIELDS: dict[str, Any] = dict.fromkeys(sorted(MARKS), (Any, None))
_Marked = create_model("_Marked", __base__=LenientBody, **_FIELDS)


async def read_body(call: Call, plain: type[S], local: type[L]) -> S | L:
    """A request's body, by its shape that of a client of local servers or of any other; raises as `Call.json` does."""
    raw = await call.read()
    # Most bodies have no such word, which is found out without reading them twice.
    if not _MARKS.isdisjoint(_KEY.findall(raw)) and any(
        value is not None for value in parse(_Marked, raw).model_dump().values()
    ):
        return parse(local, raw)
    return parse(plain, raw)


def chosen_model(models: Catalogue[ChatModel], body: SamplingBody | LocalBody) -> ChatModel:
    """The model that is asked; clients of local servers that name none get the default, or else the first.

    Raises:
        CallboardError: there is none of that name, or none is named where one has to be.
    """
    if isinstance(body, LocalBody):
        return models.resolve(body.model or models.default or next(iter(models.names), None))
    return models.resolve(body.model)


def wanted_sampling(body: SamplingBody | LocalBody) -> Sampling:
    """The sampling fields of a request."""
    return local_sampling(body) if isinstance(body, LocalBody) else sampling(body)


def guided_format(body: LocalBody) -> OutputFormat:
    """The form of a reply that llama.cpp's or vLLM's fields ask for; that of a text where there is none.

    Raises:
        CallboardError: it is given as a regular expression, which engines cannot be held to.
    """
    if body.guided_regex:
        raise unsupported("Replies are held to grammars and JSON schemas, not to regular expressions.", "guided_regex")
    for schema in (body.json_schema, body.guided_json):
        if schema is not None:
            return OutputFormat(kind="json_schema", json_schema=schema)
    if body.guided_choice:
        # A JSON string is one of GBNF's too.
        choices = " | ".join(json.dumps(one, ensure_ascii=False) for one in body.guided_choice)
        return OutputFormat(kind="grammar", grammar=f"root ::= {choices}")
    grammars = (body.grammar, body.grammar_string, body.guided_grammar)
    return grammar_format(next((one for one in grammars if one and one.strip()), None))
