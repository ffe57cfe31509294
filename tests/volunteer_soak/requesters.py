"""Those who ask, and how their requests end."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any, Literal

from tests.volunteer_soak.http import Edges, NoAnswer
from tests.volunteer_soak.texts import is_own, prompt

ASYNC = "/api/v2/generate/text/async"
STATUS = "/api/v2/generate/text/status/"
ANONYMOUS_KEY = "0000000000"
POLL_S = 5.0
CONTEXT = 1024
End = Literal["done", "faulted", "refused", "lost", "left", "foreign", "changed"]


@dataclass(slots=True)
class Request:
    """One request: who asks, when, and how it ended."""

    number: int
    kudos_class: str
    key: str
    model: str
    max_length: int
    asked_at: float = 0.0
    ended_at: float = 0.0
    id: str | None = None
    end: End | None = None
    text: str = ""
    kudos: float = 0.0
    unknown: int = 0
    """How many times it may have been accepted without anybody knowing."""
    detail: str = ""


async def follow(request: Request, edges: Edges, dice: random.Random, give_up_s: float) -> None:
    """Asks, and asks how it stands until it has ended; then asks once more, which must change nothing."""
    clock = asyncio.get_running_loop().time
    request.asked_at = clock()
    body = {
        "prompt": prompt(request.number),
        "models": [request.model],
        "params": {"max_length": request.max_length, "max_context_length": CONTEXT},
    }
    try:
        status, told, request.unknown = await edges.surely("POST", ASYNC, body, {"apikey": request.key})
    except NoAnswer as error:
        request.end, request.detail = "refused", str(error)
        return
    if status != 202:
        request.end, request.detail = "refused", f"{status} {told}"
        return
    request.id = told["id"]
    until = clock() + give_up_s
    while clock() < until:
        await asyncio.sleep(POLL_S * dice.uniform(0.6, 1.4))
        state = await _state(request, edges)
        if state is None:
            return
        if state["done"]:
            request.ended_at = clock()
            await _judge(request, state, edges)
            return
    request.end = "left"


async def _judge(request: Request, state: dict[str, Any], edges: Edges) -> None:
    request.kudos = state["kudos"]
    texts = [one["text"] for one in state["generations"]]
    if state["faulted"]:
        request.end = "faulted" if not texts else "changed"
        return
    if len(texts) != 1:
        request.end, request.detail = "lost", repr(state)
        return
    request.text = texts[0]
    request.end = "done" if is_own(request.number, request.text) else "foreign"
    again = await _state(request, edges)
    if again is not None and [one["text"] for one in again["generations"]] != texts:
        request.end, request.detail = "changed", repr((state, again))


async def _state(request: Request, edges: Edges) -> dict[str, Any] | None:
    try:
        status, state, _ = await edges.surely("GET", f"{STATUS}{request.id}")
    except NoAnswer as error:
        request.end, request.detail = "left", str(error)
        return None
    if status != 200:
        request.end, request.detail = "lost", f"{status} {state}"
        return None
    return state
