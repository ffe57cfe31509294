"""Turns, rooms and results as the tests of rooms need them."""

from typing import Any
from uuid import uuid4

from callboard_contracts.chat import ChatEnd, ChatMessage, ChatRequest, ChatResult, EndReason, TokenUsage
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import Hold
from callboard_contracts.rooms import PostTurn, Turn, TurnSpeech
from callboard_contracts.speech import SpeechRequest

NOW = 1_000_000.0
LIFE_S = 300.0
INSTRUCTIONS = "You are the owl."


def hold_of(request_id: str, kind: Any = "chat") -> Hold:
    """A hold that counts nothing."""
    return Hold(id=request_id, request_id=request_id, tenant="t", kind=kind, model="owl", entries=(), expires_at=NOW)


def turn(text: str = "Hello.", now: float = NOW, *, voice: bool = False, chat: bool = True, **over: Any) -> Turn:
    """A turn of a visitor that the owl answers."""
    turn_id = uuid4().hex
    request = ChatRequest(
        model="owl", messages=(ChatMessage(role="system", content=INSTRUCTIONS),), max_output_tokens=50
    )
    spoken = SpeechRequest(model="parrot", text="" if chat else text, voice="ann")
    speech = TurnSpeech(
        pool="booth",
        request=spoken,
        request_id=f"{turn_id}-speech",
        tenant="t",
        hold=hold_of(f"{turn_id}-speech", "speech"),
    )
    fields: dict[str, Any] = {
        "id": turn_id,
        "message_id": f"m-{turn_id}",
        "speaker": "Ann",
        "text": text,
        "character": "Owl",
        "request": request if chat else None,
        "pool": "main",
        "edge": "e",
        "tenant": "t",
        "hold": hold_of(turn_id) if chat else None,
        "speech": speech if voice or not chat else None,
        "created_at": now,
        "deadline_at": now + LIFE_S,
    }
    return Turn.model_validate({**fields, **over})


def post(one: Turn, key: str = "stage", **over: Any) -> PostTurn:
    """The request that adds a turn."""
    return PostTurn.model_validate({"kind": "ait", "key": key, "turn": one, "opens": True, **over})


def result(turn_id: str, text: str = "Hoo.", reason: EndReason = "stop", prompt_tokens: int = 0) -> ChatResult:
    """What a worker keeps of a turn."""
    error = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="It failed.") if reason == "error" else None
    usage = TokenUsage(prompt_tokens=prompt_tokens, completion_tokens=2)
    end = ChatEnd(reason=reason, usage=usage, error=error)
    return ChatResult(request_id=turn_id, model="owl", text=text, end=end)
