"""What scripts send; fields that are not named here are ignored."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from callboard_contracts.rooms import MAX_KEY_CHARACTERS, MAX_MESSAGE_BYTES
from callboard_edge.http.bodies import Body, Whole

MAX_NAME = 256
Key = Annotated[str, Field(max_length=MAX_KEY_CHARACTERS)]
MessageId = Annotated[str, Field(max_length=MAX_KEY_CHARACTERS)]
Text = Annotated[str, Field(max_length=MAX_MESSAGE_BYTES)]
Name = Annotated[str, Field(max_length=MAX_NAME)]


class ScriptBody(Body):
    """The base of what scripts send; `null` stands for a field that is left out."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, sent: Any) -> Any:
        if not isinstance(sent, dict):
            return sent
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in sent.items() if value is not None or name not in optional}


class Options(ScriptBody):
    """Settings of the engine, under Ollama's names."""

    stop: list[str] = Field(default_factory=list, max_length=16)
    seed: Whole | None = None
    num_predict: Whole | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[Whole, Field(ge=-1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    repeat_last_n: Annotated[Whole, Field(ge=-1)] | None = None


class StartConversation(ScriptBody):
    """Opens a room; a secret claims it."""

    join_key: Key
    secret: Name = ""


class Spoken(ScriptBody):
    """Which voice speaks; empty means the default."""

    audio_voice: Name = ""
    audio_model: Name = ""
    audio_instructions: Annotated[str, Field(max_length=4096)] = ""


class PostMessage(Spoken):
    """A visitor's words to a character of a room."""

    join_key: Key
    username: Name
    message: Text
    charactername: Name
    message_id: MessageId
    model: str = ""
    system_instructions: Text = ""
    options: Options = Options()
    think: bool = False


class ResetJoinKey(ScriptBody):
    """Forgets what was said in a room."""

    join_key: Key
    secret: Name = ""


class GenerateAudio(Spoken):
    """A text that is spoken in a room."""

    join_key: Key
    username: Name
    message: Text
    secret: Name = ""


class ConversationStart(ScriptBody):
    """Opens a conversation of its own."""

    model: str = ""
    system_instructions: Text = ""
    options: Options = Options()


class ConversationMessage(ScriptBody):
    """A message of such a conversation."""

    conversation_key: Key
    message: Text
    message_id: MessageId
    think: bool = False


class GenerateMessage(ScriptBody):
    """A message without a conversation."""

    message_id: MessageId
    message: Text
    system_instructions: Text = ""
    model: str = ""
    options: Options = Options()
    think: bool = False


class Translate(Spoken):
    """A text to translate."""

    session_key: Key
    message: Text
    source_language: Name
    target_language: Name
    message_id: MessageId
    model: str = ""


class RoomQuery(ScriptBody):
    """Names a message of a room."""

    join_key: Key
    message_id: MessageId


class ConversationQuery(ScriptBody):
    """Names a message of a conversation."""

    conversation_key: Key
    message_id: MessageId


class GenerateQuery(ScriptBody):
    """Names a message without a conversation."""

    message_id: MessageId


class TranslationQuery(ScriptBody):
    """Names a translation."""

    session_key: Key
    message_id: MessageId
