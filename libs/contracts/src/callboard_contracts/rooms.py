"""Rooms: conversations that are kept, their turns, and what edges ask the rooms service for.

A room is one document in the bucket ROOMS under its id. The rooms service alone writes it, by compare-and-set; every
process may read it.
"""

import hashlib
import hmac
from typing import Literal

from pydantic import Field

from callboard_contracts.chat import ChatRequest, Sampling
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.model import Message
from callboard_contracts.quota import Hold, Work
from callboard_contracts.speech import SpeechRequest

RoomKind = Literal["ait", "conversation", "translation", "character"]
TURN_LIFE_S = 25 * 60
"""How long an ended turn can still be found by its message id; longer than its result is kept."""
MAX_WAITING_TURNS = 64
MAX_MESSAGE_BYTES = 16 * 1024
"""The longest text of one turn."""
MAX_KEY_CHARACTERS = 256


def room_id(kind: RoomKind, key: str) -> str:
    """The id of a room by what its clients call it: a token that tells no key to those who do not know it."""
    return hashlib.sha256(f"{kind}\0{key}".encode()).hexdigest()[:32]


def secret_digest(secret: str) -> str:
    """How a room's owner secret is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def without_speaker(text: str, character: str) -> str:
    """A reply without a leading `character:`, in any case and with one blank after it, which models add by habit."""
    prefix = f"{character}:"
    if not character or text[: len(prefix)].casefold() != prefix.casefold():
        return text
    return text[len(prefix) :].removeprefix(" ")


class RoomSettings(Message):
    """What a room's owner set when it was opened; turns that say otherwise come before it."""

    model: str | None = None
    system_instructions: str = ""
    sampling: Sampling = Sampling()
    max_output_tokens: int | None = Field(default=None, ge=1)


class RoomMessage(Message):
    """A message that a room remembers, in the order in which it was said."""

    role: Literal["user", "assistant"]
    speaker: str = ""
    text: str
    turn: str
    at: float


class TurnSpeech(Message):
    """How a turn's reply is spoken, and the hold for it; `request` has the text only where no model is asked."""

    pool: str
    request: SpeechRequest
    request_id: str
    tenant: str
    hold: Hold | None = None


class Turn(Message):
    """A message that waits for its answer, or is being answered.

    `id` is the request id of its chat job and names its result. `number` grows with every turn of a room, also after
    the room has ended and was opened again, and orders what is heard. `request` is complete but for the dialogue, which
    the rooms service puts between its messages (the instructions) and the turn's own message. `held` is as in a chat
    job. A turn without a `request` is only spoken. One that does not `remember` neither sees nor joins the dialogue.
    With `memory_messages` the room remembers no more than that. Messages begin with their speaker's name unless
    `named_lines` is off; those of a request in mode `completion`, whose prompt goes on with the dialogue, always do.
    The rooms service gives the number, `started_at` and `job_seq`, the places of its jobs in their work queues.
    """

    id: str
    message_id: str
    number: int = 0
    speaker: str
    text: str
    character: str = ""
    request: ChatRequest | None = None
    pool: str = ""
    edge: str
    tenant: str
    hold: Hold | None = None
    held: Work | None = None
    speech: TurnSpeech | None = None
    remembers: bool = True
    memory_messages: int | None = Field(default=None, ge=1)
    named_lines: bool = True
    created_at: float
    deadline_at: float
    started_at: float | None = None
    job_seq: int | None = None
    speech_seq: int | None = None


class EndedTurn(Message):
    """A turn that is over; its reply is in `result.<id>` for as long as results are kept.

    One that `failed` has an error there, or nothing; `cancelled` says that it was given up before its job ended. `text`
    is what was said to the room, where the turn did not remember.
    """

    id: str
    message_id: str
    number: int
    speaker: str = ""
    text: str = ""
    character: str = ""
    at: float
    failed: bool = False
    cancelled: bool = False


class ModelMemory(Message):
    """How much of a room's dialogue a model is given.

    `first_turn` is the turn that its prompts begin with while the room remembers it. `tokens_per_byte` is what the
    model last made of the room's prompts.
    """

    first_turn: str = ""
    tokens_per_byte: float | None = None


class Room(Message):
    """A room as it is stored; times are Unix seconds.

    `generation` grows with every reset. `running` is the turn that is being answered, `waiting` those after it, and
    `speaking` those that are only spoken and whose jobs are not in their queue yet. `memories` has the models of the
    latest turns.
    """

    version: Literal[1] = 1
    id: str
    kind: RoomKind
    key: str
    secret_digest: str | None = None
    settings: RoomSettings = RoomSettings()
    created_at: float
    active_at: float
    generation: int = 0
    next_number: int = 1
    messages: tuple[RoomMessage, ...] = ()
    running: Turn | None = None
    waiting: tuple[Turn, ...] = ()
    speaking: tuple[Turn, ...] = ()
    memories: dict[str, ModelMemory] = Field(default_factory=dict)
    ended: tuple[EndedTurn, ...] = ()

    def turn_of(self, message_id: str) -> Turn | EndedTurn | None:
        """The newest turn of a message id, or None."""
        turns = (*self.open_turns, *self.ended)
        return max((turn for turn in turns if turn.message_id == message_id), key=lambda one: one.number, default=None)

    @property
    def open_turns(self) -> tuple[Turn, ...]:
        """The turns that are not over."""
        return (*((self.running,) if self.running else ()), *self.waiting, *self.speaking)

    def admits(self, secret: str | None) -> bool:
        """Whether a caller may do what a claimed room keeps from strangers; compares in constant time."""
        if self.secret_digest is None:
            return True
        return secret is not None and hmac.compare_digest(self.secret_digest, secret_digest(secret))


class OpenRoom(Message):
    """Opens a room, or finds it open; `secret` claims a room that nobody has claimed."""

    kind: RoomKind
    key: str = Field(min_length=1, max_length=MAX_KEY_CHARACTERS)
    secret: str | None = None
    settings: RoomSettings | None = None


class PostTurn(Message):
    """Adds a turn to a room, which is opened with it if `opens`; else an unknown room is `not_found`.

    Where `unique`, a message id that the room knows is refused as `duplicate_message`, and nothing is added; one whose
    turn failed is taken again with `retries`.
    """

    kind: RoomKind
    key: str = Field(min_length=1, max_length=MAX_KEY_CHARACTERS)
    turn: Turn
    opens: bool = False
    unique: bool = True
    retries: bool = False


class SpeakInRoom(PostTurn):
    """Speaks a text in a room; a room that is claimed asks for its secret."""

    secret: str | None = None


class RoomRequest(Message):
    """Resets a room (its dialogue and waiting turns go) or ends it; a room that is claimed asks for its secret.

    `by_admin` stands above the secret.
    """

    kind: RoomKind
    key: str = Field(min_length=1, max_length=MAX_KEY_CHARACTERS)
    secret: str | None = None
    by_admin: bool = False


class CancelTurn(Message):
    """Gives up a turn whose client has left; one that is over, or was never added, is left as it is.

    `heard` is what was said of a reply that was interrupted: the room remembers the line and so much of its reply.
    Without it the room remembers neither.
    """

    kind: RoomKind
    key: str = Field(min_length=1, max_length=MAX_KEY_CHARACTERS)
    turn: str
    heard: str | None = None


class RoomReply(Message):
    """What became of it: the room's id, whether it was new, and the error for the client."""

    id: str = ""
    created: bool = False
    error: ErrorInfo | None = None


class TurnEnded(Message):
    """A chat worker's word that a turn's reply is done and kept; stored before the job is acknowledged."""

    room: str
    turn: str
