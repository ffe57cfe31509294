"""The voices of a speech model, and how a requested voice is resolved."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callboard_contracts.characters import Character, named_character
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.voices import KOKORO_VOICES, parse_blend
from callboard_edge.domain.characters import NO_CHARACTERS, Characters

PRESETS: Mapping[str, str] = {
    "cheery": "af_bella",
    "sleepy": "af_nicole",
    "shouty": "am_fenrir",
    "chatty": "af_sky",
}
"""The voices that KoboldCpp makes up, and Kokoro's that come close; its other one, `kobo`, is the default."""
DEFAULT_PRESET = "kobo"
FILE_SUFFIX = ".wav"


@dataclass(frozen=True, slots=True)
class VoiceCatalog:
    """The voices of a speech model; `voices` is None where nobody has said yet which there are.

    Each of the `characters` is a name for its own voice.
    """

    voices: tuple[str, ...] | None
    aliases: Mapping[str, str]
    default_voice: str
    characters: Characters = NO_CHARACTERS

    def listed(self) -> tuple[str, ...]:
        """Every name that a client may use alone: voices first, then aliases and characters."""
        return (*self._own(), *(one.model_name for one in self.characters if self.can_speak(one)))

    def resolve(self, requested: str | None) -> str:
        """The engine's name or blend for what a client requested for.

        Raises:
            CallboardError: `unknown_voice`, with the voices on offer.
        """
        voice = (requested if requested is not None else self.default_voice).strip()
        if named_character(voice) is not None and self._of_character(voice) is None:
            raise self._unknown("There is no character of that name here.")
        voice = self._of_character(voice) or voice
        if self.offers(voice) and self.voices is not None:
            return voice
        voice = self.aliases.get(voice, voice)
        if self.offers(voice) and self.voices is not None:
            return voice
        try:
            parts = parse_blend(voice)
        except CallboardError as error:
            raise self._unknown(error.info.message) from None
        names = [self.aliases.get(part.voice, part.voice) for part in parts]
        if not all(map(self.offers, names)):
            one = "There is no voice of that name here."
            raise self._unknown(one if len(names) == 1 else "The blend names a voice not on offer.")
        if len(names) == 1:
            return names[0]
        return "+".join(f"{name}({part.weight:g})" for name, part in zip(names, parts, strict=True))

    def resolve_any(self, requested: str | None) -> str:
        """The engine's name or blend for what a client requested for; for a name that nobody knows, always the same.

        So are clients served that name voices of a server which makes up what it does not know.
        """
        name = (requested or "").strip().removesuffix(FILE_SUFFIX)
        if not name or name.lower() == DEFAULT_PRESET:
            return self.resolve(None)
        for each in (name, name.lower()):
            # Before a worker has said what its voices are, a made-up name would pass as one.
            if self.voices is None and each not in (*KOKORO_VOICES, *self.aliases) and not self._of_character(each):
                continue
            try:
                return self.resolve(each)
            except CallboardError:
                pass
        voices = self.voices or (self.aliases.get(self.default_voice, self.default_voice),)
        name = name.lower()
        known = [voice for voice in voices if voice == PRESETS.get(name) or voice.partition("_")[2] == name]
        number = int.from_bytes(hashlib.sha256(name.encode(errors="replace")).digest()[:8])
        return known[0] if known else voices[number % len(voices)]

    def words_of(self, requested: str | None) -> dict[str, str]:
        """How words are spoken by what a client requested for, over the lists of the site."""
        character = self.characters.named((requested or "").strip())
        return {} if character is None else character.words

    def can_speak(self, character: Character) -> bool:
        """Whether the model has a character's voice, or may have it; a blend is looked at when it is asked for."""
        voice = character.voice
        return voice is None or self.offers(voice) or voice in self.aliases or any(mark in voice for mark in "+(,")

    def alias_of(self, name: str) -> str | None:
        """The voice that a name stands for, where it is none itself."""
        return None if self.offers(name) else self.aliases.get(name) or self._of_character(name)

    def _own(self) -> tuple[str, ...]:
        """The names without those of characters, of which there can be many."""
        voices: Sequence[str] = (self.default_voice,) if self.voices is None else self.voices
        return tuple(dict.fromkeys((*voices, *self.aliases)))

    def _of_character(self, name: str) -> str | None:
        character = self.characters.named(name)
        return None if character is None else character.voice or self.default_voice

    def offers(self, name: str) -> bool:
        """Whether an engine knows a voice by that name, as far as is known here."""
        return self.voices is None or name in self.voices

    def _unknown(self, message: str) -> CallboardError:
        offered = self._own()
        return CallboardError(
            ErrorCode.UNKNOWN_VOICE, f"{message} On offer: {', '.join(offered)}.", param="voice", offered=offered
        )
