"""Plans how a request is spoken, and refuses what cannot be spoken before any work is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.speech import SpeechRequest
from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.pieces import Piece, split_text
from callboard_tts.domain.pronunciation import NO_WORD_LISTS, WordLists
from callboard_tts.domain.voices import Voice, VoiceChoice, choose_voice

NOTHING_TO_SPEAK = ErrorInfo(
    code=ErrorCode.INVALID_REQUEST, message="The text has nothing in it that can be spoken.", param="text"
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """The plan of a request: pieces in order, one voice, and the length of each kind of pause."""

    pieces: tuple[Piece, ...]
    voice: VoiceChoice
    pauses_ms: Mapping[Pause, int]

    def pause_ms(self, piece: Piece) -> int:
        """The silence before a piece."""
        return self.pauses_ms[piece.pause_before]


@dataclass(frozen=True, slots=True)
class SpeechDefaults:
    """How a site speaks; the pauses are for normal speed and scale with the speed."""

    max_characters: int = 4096
    comma_pause_ms: int = 300
    sentence_pause_ms: int = 600
    word_lists: WordLists = NO_WORD_LISTS


def plan_utterance(
    request: SpeechRequest,
    defaults: SpeechDefaults,
    known: Sequence[Voice],
    aliases: Mapping[str, str] | None = None,
) -> Utterance:
    """Plans how a request is spoken.

    Raises:
        CallboardError: the text is too long or has nothing that can be spoken, or the voice or language is not offered.
    """
    if len(request.text) > defaults.max_characters:
        raise CallboardError(
            ErrorCode.TEXT_TOO_LONG,
            f"The text has {len(request.text)} characters; at most {defaults.max_characters} are allowed.",
            param="text",
        )
    voice = choose_voice(request.voice, request.language, known, aliases)
    pieces = split_text(request.text, voice.language, words=defaults.word_lists.of(voice.spec))
    if not pieces:
        raise CallboardError.of(NOTHING_TO_SPEAK)
    pauses_ms = {
        Pause.NONE: 0,
        Pause.CLAUSE: round(defaults.comma_pause_ms / request.speed),
        Pause.SENTENCE: round(defaults.sentence_pause_ms / request.speed),
    }
    return Utterance(tuple(pieces), voice, pauses_ms)
