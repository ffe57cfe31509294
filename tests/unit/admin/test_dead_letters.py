"""What becomes of a dead job's request when it is run again."""

from typing import Any

import pytest

from callboard_admin.dead_letters import OPERATOR, renewed
from callboard_contracts.chat import ChatJob, ChatMessage, ChatRequest, RoomTurn
from callboard_contracts.errors import CallboardError
from callboard_contracts.quota import Hold, Work
from callboard_contracts.speech import NarratedReply, SpeechJob, SpeechRequest

pytestmark = pytest.mark.unit

HOLD = Hold(id="h", request_id="old", tenant="k_1", kind="chat", model="owl", entries=(), expires_at=9.0)
COMMON: dict[str, Any] = {
    "request_id": "old",
    "edge": "e1",
    "tenant": "k_1",
    "hold": HOLD,
    "created_at": 1.0,
    "deadline_at": 2.0,
}
AGAIN: dict[str, Any] = {
    "request_id": "new",
    "edge": OPERATOR,
    "tenant": OPERATOR,
    "hold": None,
    "created_at": 10.0,
    "deadline_at": 20.0,
}


def test_chat_runs_again_without_hold_or_room() -> None:
    turn = RoomTurn(room="0" * 32, turn="1" * 32)
    request = ChatRequest(
        model="owl", messages=(ChatMessage(role="user", content="hi"),), max_output_tokens=9, turn=turn
    )
    old = ChatJob(version=2, request=request, held=Work(prompt_tokens=1), **COMMON)
    new = renewed("chat", old.compact(), "new", 10.0, 20.0)
    expected = ChatJob(version=2, request=request.model_copy(update={"turn": None}), **AGAIN)
    assert new == expected


def test_speech_of_a_room_is_spoken_to_nobody() -> None:
    request = SpeechRequest(model="kokoro", text="hi", voice="af_heart")
    old = SpeechJob(version=2, room="r", utterance="u", request=request, in_room=True, **COMMON)
    new = renewed("tts", old.compact(), "new", 10.0, 20.0)
    assert new == SpeechJob(version=2, room=OPERATOR, utterance="new", request=request, **AGAIN)


def test_speech_of_a_reply_that_is_over_is_refused() -> None:
    request = SpeechRequest(model="kokoro", text="", voice="af_heart")
    narrated = NarratedReply(edge="e1", request_id="chat")
    old = SpeechJob(version=2, room="e1", utterance="old", request=request, narrates=narrated, **COMMON)
    with pytest.raises(CallboardError, match="which is over"):
        renewed("tts", old.compact(), "new", 10.0, 20.0)
