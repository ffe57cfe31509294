"""Characters: named set-ups that answer as the chat model `character/<name>` and speak as the voice of that name.

A character is one document in the bucket CHARACTERS under `character.<name>`. The rooms service alone writes it, by
compare-and-set; edges read it. What was imported with a character and is only given out again, its card and its
picture, lies beside it under the digest of its bytes.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from callboard_contracts.chat import PromptFormat, Sampling
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.model import Message
from callboard_contracts.pronunciation import WordsTable

MODEL_PREFIX = "character/"
"""What stands before a character's name where a model or a voice is named."""
EVERY_CHARACTER = f"{MODEL_PREFIX}*"
"""How a tier names all characters."""
MAX_CHARACTER_BYTES = 256 * 1024
"""How large a character's document may be, as JSON."""
MAX_CARD_BYTES = 256 * 1024
"""How large the card of a character may be, as JSON."""
MAX_AVATAR_BYTES = 384 * 1024
"""The largest picture that is kept: with all the rest it fits into one message of the bus."""
MAX_SPEAKER_CHARACTERS = 64
MAX_TEXT = 64 * 1024
DEFAULT_PROMPT = (
    "You are {name}, {desc}, and you are in {location}. Stay in this role, answer with short sentences, and say only "
    "what {name} would say. {character} speaks to you."
)
CharacterName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
CharacterPromptFormat = PromptFormat | Literal["plain"]
"""How turns are written: `plain` is the prefix and lines `Name: text`, which the model continues."""
Text = Annotated[str, Field(max_length=MAX_TEXT)]
_BLANKS = re.compile(r"\s+")


class Character(Message):
    """A character as it is stored; times are Unix seconds.

    `id` is new with every character, so that one of an old name remembers nothing of the one before. `prompt` is the
    text before every dialogue, in which `{name}`, `{desc}`, `{location}` and `{character}` stand for the character's
    name, description and place, and for who speaks to it. `model` and `voice` left out are the site's own.
    `fallback_model` answers while no worker of `model` is expected. `memory_messages` is how many messages it remembers
    of each speaker; 0 remembers nothing. `words` are how words are spoken. `card` and `avatar` are digests of what was
    imported.
    """

    version: Literal[1] = 1
    id: str = ""
    name: CharacterName
    display_name: str = Field(min_length=1, max_length=200)
    prompt: Text = DEFAULT_PROMPT
    desc: Text = ""
    location: Text = ""
    example_dialogue: Text = ""
    greetings: tuple[Text, ...] = Field(default=(), max_length=64)
    model: str | None = Field(default=None, min_length=1, max_length=256)
    fallback_model: str | None = Field(default=None, min_length=1, max_length=256)
    voice: str | None = Field(default=None, min_length=1, max_length=256)
    words: WordsTable = Field(default_factory=dict)
    memory_messages: int = Field(default=25, ge=0, le=500)
    prompt_format: CharacterPromptFormat | None = None
    sampling: Sampling = Sampling()
    max_output_tokens: int | None = Field(default=None, ge=1)
    card: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    avatar: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    created_at: float = 0.0
    changed_at: float = 0.0

    @property
    def model_name(self) -> str:
        """The name by which clients ask for it."""
        return f"{MODEL_PREFIX}{self.name}"


@dataclass(frozen=True, slots=True)
class StoredCharacter:
    """A character at a revision, which a change may name."""

    character: Character
    revision: int


class PutCharacter(Message):
    """Writes a character; `id` and times of the document are the rooms service's.

    With a `revision` the character must be at it, 0 for one that must not exist yet. `card` is JSON text and `avatar` a
    PNG file in base64; each replaces the one that was kept, and an empty one takes it away.
    """

    character: Character
    revision: int | None = None
    card: str | None = Field(default=None, max_length=MAX_CARD_BYTES)
    avatar: str | None = Field(default=None, max_length=MAX_AVATAR_BYTES * 4 // 3 + 4)


class DeleteCharacter(Message):
    """Deletes a character; its memories stay until they end as rooms do."""

    name: CharacterName
    revision: int | None = None


class CharacterReply(Message):
    """What became of it: the character as it is stored now, its revision, and the error for whoever asked."""

    character: Character | None = None
    revision: int = 0
    error: ErrorInfo | None = None


class CharacterChanged(Message):
    """That a character is at a revision now; published whenever one was written or deleted."""

    name: str
    revision: int


def character_entry(name: str) -> str:
    """The bucket's entry of a character; `*` stands for all."""
    return f"character.{name}"


def attachment_entry(kind: Literal["card", "avatar"], name: str, digest: str) -> str:
    """The bucket's entry of what was imported with a character."""
    return f"{kind}.{name}.{digest}"


def attachment_digest(data: bytes) -> str:
    """By what an attachment is named."""
    return hashlib.sha256(data).hexdigest()[:32]


def new_character_id() -> str:
    """A fresh id."""
    return secrets.token_hex(4)


def named_character(model: str) -> str | None:
    """The name of the character that a model or voice stands for, or None for another."""
    return model[len(MODEL_PREFIX) :] if model.startswith(MODEL_PREFIX) else None


def speaker_name(text: str | None) -> str:
    """A speaker's name as memories know it: in one line and without what cannot be seen; empty for none."""
    shown = "".join(one if one.isprintable() else " " for one in (text or "")[: 4 * MAX_SPEAKER_CHARACTERS])
    return _BLANKS.sub(" ", shown).strip()[:MAX_SPEAKER_CHARACTERS].strip()


def memory_prefix(tenant: str, character: Character) -> str:
    """What the keys of a character's memories with the speakers of a tenant begin with."""
    return f"{tenant}/{character.name}.{character.id}/"


def memory_key(tenant: str, character: Character, speaker: str) -> str:
    """The key of the room that keeps what a character and a speaker of a tenant have said."""
    return memory_prefix(tenant, character) + speaker
