"""What a caller has used: `/v1/usage`, for the holder of a key and for nobody else."""

from aiohttp import web

from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route


class LimitObject(AnswerBody):
    """Where one limit stands; `resets_in_s` is when the first of what counts against it frees."""

    limit: str
    allowed: int
    remaining: int
    resets_in_s: float


class UsageObject(AnswerBody):
    """What was used, holds of running requests included, in tokens."""

    tier: str
    tokens_last_day: int
    tokens_this_month: int
    limits: list[LimitObject]


def routes(context: EdgeContext) -> list[Route]:
    """The route of this module."""

    async def usage(call: Call) -> web.StreamResponse:
        reply = await context.admission.usage(call.caller)
        return call.answer(
            {
                "tier": reply.tier,
                "tokens_last_day": reply.tokens_last_day,
                "tokens_this_month": reply.tokens_this_month,
                "limits": [state.model_dump() for state in reply.limits],
            }
        )

    return [
        Route(
            "GET",
            "/v1/usage",
            usage,
            name="usage",
            summary="Say what this key, or this address, has used and where its limits stand",
            tag="Usage",
            answers={
                200: Answer("The usage.", UsageObject),
                401: Answer("The key is unknown, expired or revoked."),
                503: Answer("The quota service did not answer."),
            },
        )
    ]
