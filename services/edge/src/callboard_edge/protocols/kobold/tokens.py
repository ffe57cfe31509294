"""The tokens of a text and the text of tokens, and grammars out of JSON schemas."""

import json

from aiohttp import web

from callboard_contracts.chat import ChatMessage, ChatRequest, OutputFormat, Role
from callboard_contracts.tokens import TokenizeReply
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.model_inquiries import ModelQuestions
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.kobold.bodies import (
    GrammarAnswer,
    SchemaBody,
    TextAnswer,
    TokenCountResults,
    TokensAnswer,
    TokensBody,
    TokensMessage,
    WordsBody,
)
from callboard_edge.protocols.kobold.callers import known_caller
from callboard_edge.protocols.kobold.errors import ANSWERS
from callboard_edge.protocols.kobold.info import TAG
from callboard_edge.protocols.kobold.models import chosen_model

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "assistant": "assistant", "tool": "tool"}


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    questions = ModelQuestions(context.inquiry)

    async def model_of(call: Call, name: str | None) -> ChatModel:
        return chosen_model((await context.offers.to(call.caller)).chat_models, name)

    async def counted(call: Call) -> TokenizeReply:
        body = await call.json(WordsBody)
        model = await model_of(call, body.model)
        if body.messages:
            return await questions.dialogue_tokens(model, [_message(one) for one in body.messages])
        return await questions.tokens(
            model,
            body.prompt or "",
            special=body.special is not False,
            turn_tags=body.replace_instruct_placeholders is not False,
        )

    async def tokenize(call: Call) -> web.StreamResponse:
        reply = await counted(call)
        return call.answer({"value": len(reply.ids), "ids": reply.ids, "prompt": reply.text})

    async def count(call: Call) -> web.StreamResponse:
        return call.answer({"results": [{"tokens": len((await counted(call)).ids)}]})

    async def detokenize(call: Call) -> web.StreamResponse:
        body = await call.json(TokensBody)
        ids = [one for one in body.ids if one is not None]
        text = await questions.text(await model_of(call, body.model), ids, special=body.special is not False)
        return call.answer({"result": text, "success": True})

    async def grammar(call: Call) -> web.StreamResponse:
        body = await call.json(SchemaBody)
        # What is sent as a grammar later may be the text of a schema, which says the same.
        schema = body.schema_ if body.schema_ is not None else body.model_extra or {}
        wanted = OutputFormat(kind="json_schema", json_schema=schema)
        checked = await context.text.schemas.enforceable(
            ChatRequest(model="", mode="completion", max_output_tokens=1, output_format=wanted)
        )
        return call.answer({"result": json.dumps(checked.output_format.json_schema), "success": True})

    counts = Answer("How many tokens, which, and the text as the engine gets it.", TokensAnswer)
    refusals = {code: ANSWERS[code] for code in (400, 401, 413, 503)}
    return [
        *(
            Route(
                "POST",
                path,
                known_caller(context, tokenize),
                "kobold_tokenize",
                "Count the tokens of a text, or of a dialogue with the model's template around it",
                TAG,
                body=WordsBody,
                answers={200: counts, **refusals},
            )
            for path in ("/api/extra/tokencount", "/api/extra/tokenize")
        ),
        Route(
            "POST",
            "/api/v1/token-count",
            known_caller(context, count),
            "textgen_token_count",
            "Count the tokens of a text",
            TAG,
            body=WordsBody,
            answers={200: Answer("How many tokens.", TokenCountResults), **refusals},
        ),
        Route(
            "POST",
            "/api/extra/detokenize",
            known_caller(context, detokenize),
            "kobold_detokenize",
            "Give the text of tokens",
            TAG,
            body=TokensBody,
            answers={200: Answer("The text.", TextAnswer), **refusals},
        ),
        Route(
            "POST",
            "/api/extra/json_to_grammar",
            known_caller(context, grammar),
            "kobold_grammar",
            "Make of a JSON schema what can be sent as a grammar",
            TAG,
            body=SchemaBody,
            answers={200: Answer("The grammar.", GrammarAnswer), **refusals},
        ),
    ]


def _message(one: TokensMessage) -> ChatMessage:
    return ChatMessage(role=_ROLES.get(one.role or "", "user"), content=one.content or "")
