"""The voices of a speech model, and how a requested voice is resolved."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.voices import parse_blend

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
    """The voices of a speech model; `voices` is None where nobody has said yet which there are."""

    voices: tuple[str, ...] | None
    aliases: Mapping[str, str]
    default_voice: str

    def listed(self) -> tuple[str, ...]:
        """Every name that a client may use alone: voices first, then aliases."""
        voices: Sequence[str] = (self.default_voice,) if self.voices is None else self.voices
        return tuple(dict.fromkeys((*voices, *self.aliases)))

    def resolve(self, requested: str | None) -> str:
        """The engine's name or blend for what a client requested for.

        Raises:
            CallboardError: `unknown_voice`, with the voices on offer.
        """
        voice = (requested if requested is not None else self.default_voice).strip()
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
            try:
                return self.resolve(each)
            except CallboardError:
                pass
        voices = self.voices or (self.aliases.get(self.default_voice, self.default_voice),)
        name = name.lower()
        known = [voice for voice in voices if voice == PRESETS.get(name) or voice.partition("_")[2] == name]
        number = int.from_bytes(hashlib.sha256(name.encode(errors="replace")).digest()[:8])
        return known[0] if known else voices[number % len(voices)]

    def offers(self, name: str) -> bool:
        """Whether an engine knows a voice by that name, as far as is known here."""
        return self.voices is None or name in self.voices

    def _unknown(self, message: str) -> CallboardError:
        offered = self.listed()
        return CallboardError(
            ErrorCode.UNKNOWN_VOICE, f"{message} On offer: {', '.join(offered)}.", param="voice", offered=offered
        )
