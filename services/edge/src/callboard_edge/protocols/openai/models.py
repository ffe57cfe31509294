"""OpenAI's list of models: `/v1/models` and `/v1/models/{id}`."""

from collections.abc import Sequence
from typing import Any, Literal

from aiohttp import web

from callboard_contracts.jobs import Service
from callboard_edge.domain.catalogue import ChatModel, RecognitionModel, SpeechModel, unknown_model
from callboard_edge.domain.offers import Offer
from callboard_edge.http.bodies import AnswerBody, Body, parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route

CREATED = 1_767_225_600
"""A fixed date, 2026-01-01, because a configured model has no date of its own."""
OWNER = "callboard"
Task = Literal["text-generation", "feature-extraction", "text-to-speech", "automatic-speech-recognition"]


class ModelsQuery(Body):
    """Which models are asked for; left out, all."""

    task: Task | None = None


class ModelObject(AnswerBody):
    """A model on offer."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(AnswerBody):
    """All models on offer."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    def names(offer: Offer, task: Task | None = None) -> tuple[str, ...]:
        kinds: tuple[tuple[Task, Service, Sequence[ChatModel | SpeechModel | RecognitionModel]], ...] = (
            ("text-generation", "chat", offer.chat_models.models),
            ("feature-extraction", "chat", offer.embedding_models.models),
            ("text-to-speech", "tts", offer.speech_models.models),
            ("automatic-speech-recognition", "stt", offer.recognition_models.models),
        )
        wanted = (kind for kind in kinds if task in (None, kind[0]))
        return tuple(
            dict.fromkeys(
                model.name for _, service, models in wanted for model in models if is_expected(context, service, model)
            )
        )

    async def list_models(call: Call) -> web.StreamResponse:
        await context.admission.identify(call.caller)
        query = parse_query(ModelsQuery, call.request.query)
        offer = await context.offers.to(call.caller)
        return call.answer({"object": "list", "data": [model_object(name) for name in names(offer, query.task)]})

    async def get_model(call: Call) -> web.StreamResponse:
        await context.admission.identify(call.caller)
        name, offer = call.params["model"], await context.offers.to(call.caller)
        kinds = offer.chat_models, offer.embedding_models, offer.speech_models, offer.recognition_models
        if not any(each.find(name) for each in kinds):
            raise unknown_model(names(offer))
        return call.answer(model_object(name))

    return [
        Route(
            "GET",
            "/v1/models",
            list_models,
            name="models",
            summary="List the models on offer; `task` narrows the list to what does one thing",
            tag="Models",
            query=ModelsQuery,
            answers={200: Answer("The models.", ModelList)},
        ),
        Route(
            "GET",
            "/v1/models/{model:path}",
            get_model,
            name="model",
            summary="Describe one model",
            tag="Models",
            answers={200: Answer("The model.", ModelObject), 404: Answer("No model of that name is on offer.")},
        ),
    ]


def is_expected(context: EdgeContext, service: Service, model: ChatModel | SpeechModel | RecognitionModel) -> bool:
    """Whether a model's pool has a worker, has had one, or may be asleep."""
    return context.workers.expects(service, model)


def model_object(name: str) -> dict[str, Any]:
    """A model in OpenAI's form."""
    return {"id": name, "object": "model", "created": CREATED, "owned_by": OWNER}
