"""The state of a real-time session: turns, responses, interruptions and items, without a connection or jobs."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from callboard_contracts.chat import ChatEnd, ChatFrame, TokenUsage, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.domain.input_audio import SpeechStarted, Turn
from callboard_edge.domain.word_times import TimedWord
from callboard_edge.http.bodies import parse
from callboard_edge.protocols.openai.realtime_bodies import EVENTS
from callboard_edge.protocols.openai.realtime_events import Events
from callboard_edge.protocols.openai.realtime_items import Item, Part
from callboard_edge.protocols.openai.realtime_response import Answered, CancelReason, Response
from callboard_edge.protocols.openai.realtime_session import MAX_PENDING, Session
from callboard_edge.protocols.openai.realtime_settings import SessionSettings, Shape, Transcription
from callboard_edge.protocols.openai.realtime_work import Plan

pytestmark = pytest.mark.unit

TURN = Turn(b"\1\0" * 2400, 100, 200, 500)
FAILED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")


class Board:
    """A session, what it sent and what it had done."""

    def __init__(self, shape: Shape = "ga", max_items: int = 8, **settings: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self._tags: list[str | None] = []
        self.sounds: list[tuple[Item, Part]] = []
        self.plans: list[Plan] = []
        self.stopped: list[tuple[Response, CancelReason]] = []
        given: dict[str, Any] = {"transcription": Transcription(), **settings}
        wanted = SessionSettings("owl", **given)
        self.session = Session(Events(self, shape), self, wanted, 60_000, max_items, 60)

    def send(self, event: str, tag: str | None = None) -> None:
        self.sent.append(json.loads(event))
        self._tags.append(tag)

    def take_back(self, tag: str) -> None:
        kept = [(event, one) for event, one in zip(self.sent, self._tags, strict=True) if one != tag]
        self.sent, self._tags = [event for event, _ in kept], [one for _, one in kept]

    def check(self, settings: SessionSettings) -> str:
        if settings.voice == "nobody":
            raise CallboardError(ErrorCode.UNKNOWN_VOICE, "There is no such voice.")
        return "owl" if settings.model == "gpt-realtime" else settings.model

    def recognise(self, item: Item, part: Part, pcm: bytes) -> None:
        assert pcm
        self.sounds.append((item, part))

    def recognise_encoded(self, item: Item, part: Part, sound: str, param: str) -> None:
        if sound == "%":
            raise CallboardError(ErrorCode.INVALID_REQUEST, "no base64", param=param)
        self.sounds.append((item, part))

    def turn_ended(self, silence_ms: int, *, detected: bool) -> None:
        assert (silence_ms > 0) == detected

    def respond(self, plan: Plan) -> None:
        self.plans.append(plan)

    def stop(self, response: Response, reason: CancelReason) -> None:
        self.stopped.append((response, reason))

    def take(self, **event: Any) -> None:
        """A client's event."""
        self.session.take(parse(EVENTS[event["type"]], json.dumps(event).encode()))

    def refused(self, **event: Any) -> str | None:
        """The field for which a client's event is refused; nothing may change."""
        before = len(self.sent)
        with pytest.raises(CallboardError) as error:
            self.take(**event)
        assert len(self.sent) == before
        return error.value.info.param

    def say(self, text: str, **over: Any) -> str:
        """Puts in what a user says, and returns the item's id."""
        part = {"type": "input_text", "text": text}
        item = {"type": "message", "role": "user", "content": [part], **over.pop("item", {})}
        self.take(type="conversation.item.create", item=item, **over)
        return next(e["item"]["id"] for e in reversed(self.sent) if e["type"] == "conversation.item.added")

    def hear(self, text: str, n: int = -1) -> None:
        """The text of a sound is known."""
        self.session.heard(*self.sounds[n], text, 0.1)

    def answer(self, *texts: str) -> Response:
        """The last response writes and speaks a second for each text, and goes on."""
        response = self.plans[-1].response
        for text in texts:
            response.written([ChatFrame(seq=0, attempt=1, text=text, tokens=1)])
            response.spoken(b"\0\0" * 24_000, 1000, ())
        return response

    def finish(self, response: Response) -> None:
        """A response comes to its end."""
        response.complete(Answered(ChatEnd(reason="stop", usage=TokenUsage(prompt_tokens=3, completion_tokens=2))))
        self.session.ended(response)

    def read(self) -> list[tuple[str, str]]:
        """What the model of the last response reads."""
        return [(message.role, message.content) for message in self.session.messages(self.plans[-1])]

    def kinds(self) -> list[str]:
        """The types of what was sent, which is then forgotten."""
        kinds = [event["type"] for event in self.sent]
        self.sent, self._tags = [], []
        return kinds


def found(board: Board, *activity: SpeechStarted | Turn) -> None:
    sequence: Sequence[SpeechStarted | Turn] = activity
    board.session.heard_sound(sequence)


def test_detected_turn_is_answered_once_its_text_is_known() -> None:
    board = Board()
    found(board, SpeechStarted(100), TURN)
    assert board.plans == []
    board.hear("Who are you?")
    response = board.answer("An ", "owl.")
    board.finish(response)
    assert board.kinds() == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "conversation.item.input_audio_transcription.completed",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert (response.status, board.session.is_busy) == ("completed", False)
    found(board, TURN)
    board.hear("And I?")
    assert board.read() == [("user", "Who are you?"), ("assistant", "An owl."), ("user", "And I?")]


def test_noise_is_not_answered() -> None:
    board = Board()
    found(board, TURN)
    board.hear("")
    assert (board.plans, board.session.is_busy) == ([], False)
    board.say("Look.")
    call = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
    board.take(type="conversation.item.create", item=call)
    found(board, TURN)
    board.hear("")
    assert (board.plans, board.session.is_busy) == ([], False)


def test_who_goes_on_is_answered_after_the_last_turn() -> None:
    board = Board()
    found(board, TURN)
    found(board, TURN)
    board.hear("Who are", 0)
    assert board.plans == []
    board.hear("you?", 1)
    assert board.read() == [("user", "Who are"), ("user", "you?")]


def test_who_speaks_into_an_answer_stops_it_and_what_waits_to_be_sent() -> None:
    board = Board()
    board.say("Tell me.")
    board.take(type="response.create")
    response = board.answer("Once upon a time ")
    found(board, SpeechStarted(100))
    assert board.stopped == [(response, "turn_detected")]
    assert "response.output_audio.delta" not in board.kinds()
    response.written([ChatFrame(seq=1, attempt=1, text="late")])
    response.spoken(b"\0\0", 1, ())
    board.session.ended(response)
    assert board.sent == []
    found(board, TURN)
    board.hear("Stop!")
    assert board.read()[-1] == ("user", "Stop!")


def test_answers_are_not_interrupted_where_the_client_says_so() -> None:
    board = Board()
    settings = {"turn_detection": {"type": "server_vad", "interrupt_response": False, "silence_duration_ms": 300}}
    board.take(type="session.update", session=settings)
    board.say("Tell me.")
    board.take(type="response.create")
    response = board.answer("Once ")
    found(board, SpeechStarted(100), TURN)
    board.hear("And then?")
    assert (board.stopped, len(board.plans)) == ([], 1)
    board.finish(response)
    assert board.read()[-1] == ("user", "And then?")


def test_turns_are_only_found_where_no_response_is_wanted() -> None:
    board = Board()
    board.take(type="session.update", session={"turn_detection": {"type": "semantic_vad", "create_response": False}})
    shown = board.sent[-1]["session"]["audio"]["input"]["turn_detection"]
    assert (shown["type"], shown["silence_duration_ms"], shown["create_response"]) == ("server_vad", 700, False)
    found(board, TURN)
    board.hear("Hello.")
    assert board.plans == []


def test_sound_that_cannot_be_heard_is_told_and_answered_by_an_error() -> None:
    board = Board()
    found(board, TURN)
    board.session.not_heard(*board.sounds[0], FAILED, {"code": "engine_failed"})
    assert board.kinds()[-2:] == ["conversation.item.input_audio_transcription.failed", "error"]
    assert (board.plans, board.session.is_busy) == ([], False)


def test_only_so_many_sounds_wait_to_be_heard() -> None:
    board = Board(max_items=100)
    for _ in range(MAX_PENDING + 1):
        found(board, TURN)
    assert (len(board.sounds), board.sent[-1]["error"]["code"]) == (MAX_PENDING, "queue_full")


def test_response_is_one_at_a_time_in_the_conversation_and_others_beside_it() -> None:
    board = Board()
    board.say("Hello.")
    board.take(type="response.create")
    with pytest.raises(CallboardError):
        board.take(type="response.create")
    aside = {"conversation": "none", "metadata": {"topic": "x"}, "output_modalities": ["text"], "instructions": "Sum."}
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Other."}]}
    board.take(type="response.create", response={**aside, "input": [item]})
    assert board.read() == [("system", "Sum."), ("user", "Other.")]
    response = board.plans[-1].response
    response.written([ChatFrame(seq=0, attempt=1, text="All.")])
    board.finish(response)
    done = board.sent[-1]["response"]
    assert (done["conversation_id"], done["metadata"], done["status"]) == (None, {"topic": "x"}, "completed")
    assert len(list(board.session.conversation)) == 1
    board.take(type="response.cancel")
    assert board.stopped == [(board.plans[0].response, "client_cancelled")]
    assert board.refused(type="response.cancel") == "response_id"


def test_functions_are_called_after_the_text() -> None:
    board = Board(spoken=False)
    board.say("Look.")
    board.take(type="response.create")
    call = ToolCall(id="call_1", name="look", arguments='{"at": 1}')
    response = board.plans[-1].response
    response.written([ChatFrame(seq=0, attempt=1, text="Well."), ChatFrame(seq=1, attempt=1, tool_calls=(call,))])
    board.kinds()
    board.finish(response)
    output = board.sent[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    assert output[1]["arguments"] == '{"at": 1}'
    assert board.refused(
        type="conversation.item.create", item={"type": "function_call_output", "call_id": "x", "output": ""}
    )
    board.take(
        type="conversation.item.create", item={"type": "function_call_output", "call_id": "call_1", "output": "Dark."}
    )
    board.take(type="response.create")
    assert [role for role, _ in board.read()] == ["user", "assistant", "tool"]


def test_function_is_called_after_the_voice_has_ended_and_not_where_it_is_stopped() -> None:
    call = ChatFrame(seq=1, attempt=1, tool_calls=(ToolCall(id="call_1", name="look", arguments="{}"),))
    board = Board()
    board.say("Look.")
    for ends in (True, False):
        board.take(type="response.create")
        response = board.answer("Well.")
        response.written([call])
        response.spoken(b"\0\0", 1, ())
        board.kinds()
        if ends:
            board.finish(response)
            assert board.kinds() == [
                "response.output_audio.done",
                "response.output_audio_transcript.done",
                "response.content_part.done",
                "conversation.item.done",
                "response.output_item.done",
                "response.output_item.added",
                "conversation.item.added",
                "response.function_call_arguments.delta",
                "response.function_call_arguments.done",
                "conversation.item.done",
                "response.output_item.done",
                "response.done",
            ]
    board.take(type="response.cancel")
    board.finish(response)
    (done,) = [event for event in board.sent if event["type"] == "response.done"]
    assert (done["response"]["status"], [one["type"] for one in done["response"]["output"]]) == (
        "cancelled",
        ["message"],
    )


def test_each_sound_of_an_item_is_told_by_its_own_index() -> None:
    board = Board()
    content = [{"type": "input_audio", "audio": "AAAA"}] * 2
    board.take(type="conversation.item.create", item={"type": "message", "role": "user", "content": content})
    board.hear("you?", 1)
    board.hear("Who are", 0)
    told = [(event["content_index"], event["transcript"]) for event in board.sent[-2:]]
    assert told == [(1, "you?"), (0, "Who are")]


def test_failure_and_limit_end_a_response() -> None:
    board = Board()
    board.say("Hello.")
    board.take(type="response.create")
    response = board.answer("One.")
    response.fail(FAILED)
    board.session.ended(response)
    details = board.sent[-1]["response"]["status_details"]
    assert (details["type"], details["error"]["code"]) == ("failed", "engine_failed")
    board.take(type="response.create")
    response = board.answer("Two.")
    response.complete(Answered(ChatEnd(reason="length")))
    assert board.sent[-1]["response"]["status_details"]["reason"] == "max_output_tokens"


def test_items_are_put_in_place_read_and_deleted() -> None:
    board = Board()
    first = board.say("One.")
    board.say("Three.")
    board.say("Two.", previous_item_id=first)
    board.say("Zero.", previous_item_id="root", item={"id": "zero"})
    assert board.sent[-1]["item"]["content"] == [{"type": "input_text", "text": "Zero."}]
    board.take(type="response.create")
    assert [text for _, text in board.read()] == ["Zero.", "One.", "Two.", "Three."]
    board.take(type="conversation.item.delete", item_id="zero")
    board.take(type="conversation.item.retrieve", item_id=first)
    assert board.sent[-1]["item"]["id"] == first
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    create = "conversation.item.create"
    assert board.refused(type=create, item={**message, "id": first}) == "item.id"
    assert board.refused(type=create, item=message, previous_item_id="zero") == "previous_item_id"
    assert board.refused(type=create, item={"type": "message", "content": []}) == "item.role"
    image = {**message, "content": [{"type": "input_image", "image_url": "x"}]}
    assert board.refused(type=create, item=image) == "item.content[0].type"
    sound = {**message, "content": [{"type": "input_audio", "audio": "%"}]}
    assert board.refused(type=create, item=sound) == "item.content"
    assert len(list(board.session.conversation)) == 3


def test_oldest_items_leave() -> None:
    board = Board(max_items=3)
    ids = [board.say(str(n)) for n in range(5)]
    gone = [event["item_id"] for event in board.sent if event["type"] == "conversation.item.deleted"]
    assert gone == ids[:2]


@pytest.mark.parametrize(
    ("words", "at_ms", "kept"),
    [
        ((TimedWord("Once", 0, 400), TimedWord("upon", 400, 900), TimedWord("time.", 1200, 2000)), 1000, "Once upon"),
        ((), 1100, "Once upon"),
        ((), 2000, "Once upon a time."),
        ((), 0, ""),
    ],
)
def test_answer_is_cut_to_what_was_heard(words: Sequence[TimedWord], at_ms: int, kept: str) -> None:
    board = Board()
    board.say("Tell me.")
    board.take(type="response.create")
    response = board.plans[-1].response
    response.written([ChatFrame(seq=0, attempt=1, text="Once upon a time.")])
    response.spoken(b"\0\0", 2000, words)
    item_id = board.sent[-1]["item_id"]
    cut = {"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0}
    board.finish(response)
    assert board.refused(**cut, audio_end_ms=2001) == "audio_end_ms"
    assert board.refused(**{**cut, "content_index": 1}, audio_end_ms=1) == "content_index"
    board.take(**cut, audio_end_ms=at_ms)
    assert board.session.conversation.get(item_id).text == kept


@pytest.mark.parametrize("end", ["cancelled", "completed"])
def test_answer_that_is_cut_while_it_is_given_keeps_what_was_heard(end: str) -> None:
    board = Board()
    board.say("Tell me.")
    board.take(type="response.create")
    response = board.plans[-1].response
    response.written([ChatFrame(seq=0, attempt=1, text="Once upon a time.")])
    response.spoken(b"\0\0", 900, (TimedWord("Once", 0, 400), TimedWord("upon", 400, 900)))
    cut = {"type": "conversation.item.truncate", "item_id": board.sent[-1]["item_id"], "content_index": 0}
    assert board.refused(**cut, audio_end_ms=901) == "audio_end_ms"
    board.take(**cut, audio_end_ms=300)
    assert board.sent[-1]["type"] == "conversation.item.truncated"
    response.written([ChatFrame(seq=1, attempt=1, text=" There was an owl.")])
    response.spoken(b"\0\0", 1100, (TimedWord("a", 900, 1000), TimedWord("time.", 1200, 2000)))
    assert board.sent[-1]["type"] == "response.output_audio.delta"
    assert board.refused(**cut, audio_end_ms=301) == "audio_end_ms"
    assert response.heard() == "Once"
    if end == "cancelled":
        board.take(type="response.cancel")
        board.session.ended(response)
    else:
        board.finish(response)
    done = board.sent[-1]["response"]
    assert (done["status"], done["output"][0]["content"][0]["transcript"]) == (end, "Once")
    board.say("Go on.")
    board.take(type="response.create")
    assert board.read() == [("user", "Tell me."), ("assistant", "Once"), ("user", "Go on.")]


FUNCTION = {"type": "function", "name": "weather", "parameters": {}}


@pytest.mark.parametrize(
    "choice",
    ["weather", {"type": "function", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}],
)
def test_function_is_chosen_in_the_forms_of_both_protocols(choice: object) -> None:
    shown: dict[Shape, object] = {"ga": {"type": "function", "name": "weather"}, "beta": "weather"}
    for shape, expected in shown.items():
        board = Board(shape)
        board.take(type="session.update", session={"tools": [FUNCTION], "tool_choice": choice})
        assert board.sent[-1]["session"]["tool_choice"] == expected
        board.take(type="session.update", session={"tool_choice": "required"})
        assert board.sent[-1]["session"]["tool_choice"] == "required"


def test_settings_change_one_by_one_and_are_checked_first() -> None:
    board = Board("beta")
    board.session.open()
    board.take(type="session.update", session={"input_audio_format": "g711_alaw", "temperature": 0.8, "tools": []})
    session = board.sent[-1]["session"]
    assert (session["input_audio_format"], session["temperature"], session["voice"]) == ("g711_alaw", 0.8, None)
    assert board.session.audio.rate_hz == 8000
    board.take(type="session.update", session={"turn_detection": None, "max_response_output_tokens": 20})
    session = board.sent[-1]["session"]
    assert (session["turn_detection"], session["max_response_output_tokens"], session["temperature"]) == (None, 20, 0.8)
    update = "session.update"
    board.refused(type=update, session={"voice": "nobody"})
    assert board.refused(type=update, session={"model": "wren"}) == "session.model"
    board.take(type=update, session={"model": "gpt-realtime"})
    assert board.sent[-1]["session"]["model"] == "owl"
    assert board.refused(type=update, session={"type": "transcription"}) == "session.type"
    rate = {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}
    assert board.refused(type=update, session={"audio": rate}) == "session.audio.input.format.rate"
    board.session.spoke()
    assert board.refused(type=update, session={"voice": "ann"}) == "session.voice"
    assert board.session.settings.voice is None


def test_beta_names_are_used_throughout() -> None:
    board = Board("beta")
    found(board, TURN)
    board.hear("Hello.")
    board.finish(board.answer("Yes."))
    kinds = set(board.kinds())
    assert {"conversation.item.created", "response.audio.delta", "response.audio_transcript.done"} <= kinds
    assert not {"conversation.item.added", "conversation.item.done"} & kinds
    assert not [kind for kind in kinds if "output_audio" in kind]
