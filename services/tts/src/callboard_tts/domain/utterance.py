"""From a request to what an engine is asked, and every reason to refuse it before any work is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.speech import SpeechRequest
from callboard_tts.domain.pieces import Piece, split_text
from callboard_tts.domain.splitting import Pause
from callboard_tts.domain.voices import Voice, VoiceChoice, choose_voice


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is to be spoken: pieces in order, one voice, and the silence before each piece in milliseconds."""

    pieces: tuple[Piece, ...]
    voice: VoiceChoice
    pauses_ms: Mapping[Pause, int]

    def pause_ms(self, piece: Piece) -> int:
        """The silence before a piece."""
        return self.pauses_ms[piece.pause_before]


@dataclass(frozen=True, slots=True)
class SpeechDefaults:
    """How this installation speaks; the pauses hold for normal speed and shrink and grow with it."""

    max_characters: int = 4096
    comma_pause_ms: int = 300
    sentence_pause_ms: int = 600


def plan_utterance(
    request: SpeechRequest,
    manner: SpeechDefaults,
    known: Sequence[Voice],
    aliases: Mapping[str, str] | None = None,
) -> Utterance:
    """Decides how a request is spoken.

    Raises:
        CallboardError: the text is too long or has nothing that can be spoken, or the voice or language is not offered.
    """
    if len(request.text) > manner.max_characters:
        raise CallboardError(
            ErrorCode.TEXT_TOO_LONG,
            f"The text has {len(request.text)} characters; at most {manner.max_characters} are allowed.",
            param="text",
        )
    voice = choose_voice(request.voice, request.language, known, aliases)
    pieces = split_text(request.text, voice.language)
    if not pieces:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "The text has nothing in it that can be spoken.", param="text")
    pauses_ms = {
        Pause.NONE: 0,
        Pause.CLAUSE: round(manner.comma_pause_ms / request.speed),
        Pause.SENTENCE: round(manner.sentence_pause_ms / request.speed),
    }
    return Utterance(tuple(pieces), voice, pauses_ms)
