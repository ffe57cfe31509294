"""The voices of a speech model, and how a requested voice is resolved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.voices import parse_blend


@dataclass(frozen=True, slots=True)
class VoiceCatalog:
    """The voices of a speech model; `voices` is None where nobody has said yet which there are.

    `words` has how words are spoken by those that have lists of their own.
    """

    voices: tuple[str, ...] | None
    aliases: Mapping[str, str]
    default_voice: str
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])

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

    def words_of(self, requested: str | None) -> dict[str, str]:
        """How words are spoken by what a client requested for, over the lists of the site."""
        return dict(self.words.get((requested or "").strip(), {}))

    def offers(self, name: str) -> bool:
        """Whether an engine knows a voice by that name, as far as is known here."""
        return self.voices is None or name in self.voices

    def _unknown(self, message: str) -> CallboardError:
        offered = self.listed()
        return CallboardError(
            ErrorCode.UNKNOWN_VOICE, f"{message} On offer: {', '.join(offered)}.", param="voice", offered=offered
        )
