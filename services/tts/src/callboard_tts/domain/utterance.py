"""Plans how a request is spoken, and refuses what cannot be spoken before any work is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.speech import SpeechRequest
from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.pieces import Piece, PieceStream
from callboard_tts.domain.pronunciation import NO_WORD_LISTS, NO_WORDS, WordList, WordLists
from callboard_tts.domain.role_play import RolePlay
from callboard_tts.domain.voices import Voice, VoiceChoice, choose_voice

NOTHING_TO_SPEAK = ErrorInfo(
    code=ErrorCode.INVALID_REQUEST, message="The text has nothing in it that can be spoken.", param="text"
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """How a text is spoken, whole or as it arrives: the voices, the length of each kind of pause, and the words."""

    voice: VoiceChoice
    pauses_ms: Mapping[Pause, int]
    words: WordList = NO_WORDS
    role_play: RolePlay = "pause"
    action_voice: VoiceChoice | None = None

    def pause_ms(self, piece: Piece) -> int:
        """The silence before a piece."""
        return self.pauses_ms[piece.pause_before]

    def voice_of(self, piece: Piece) -> VoiceChoice:
        """Who speaks a piece."""
        return self.action_voice if piece.is_action and self.action_voice else self.voice

    def pieces(self) -> PieceStream:
        """Begins to cut the text into pieces."""
        return PieceStream(self.voice.language, words=self.words, role_play=self.role_play)


@dataclass(frozen=True, slots=True)
class SpeechDefaults:
    """How a site speaks; the pauses are for normal speed and scale with the speed."""

    max_characters: int = 4096
    comma_pause_ms: int = 300
    sentence_pause_ms: int = 600
    word_lists: WordLists = NO_WORD_LISTS
    role_play: RolePlay = "pause"
    role_play_voice: str | None = None


def plan_utterance(
    request: SpeechRequest,
    defaults: SpeechDefaults,
    known: Sequence[Voice],
    aliases: Mapping[str, str] | None = None,
) -> Utterance:
    """Plans how a request is spoken.

    Raises:
        CallboardError: the text is too long, or the voice or language is not offered.
    """
    if len(request.text) > defaults.max_characters:
        raise CallboardError(
            ErrorCode.TEXT_TOO_LONG,
            f"The text has {len(request.text)} characters; at most {defaults.max_characters} are allowed.",
            param="text",
        )
    voice = choose_voice(request.voice, request.language, known, aliases)
    pauses_ms = {
        Pause.NONE: 0,
        Pause.CLAUSE: round(defaults.comma_pause_ms / request.speed),
        Pause.SENTENCE: round(defaults.sentence_pause_ms / request.speed),
    }
    words, role_play = defaults.word_lists.of(voice.spec, request.words), defaults.role_play
    action_voice = None
    if role_play == "voice":
        action_voice = _action_voice(defaults.role_play_voice, voice, known, aliases)
        role_play = "voice" if action_voice else "pause"
    return Utterance(voice, pauses_ms, words, role_play, action_voice)


def whole_text(utterance: Utterance, text: str) -> tuple[Piece, ...]:
    """The pieces of a text that is known; raises CallboardError where it has nothing that can be spoken."""
    stream = utterance.pieces()
    pieces = stream.feed(text) + stream.finish()
    if not pieces:
        raise CallboardError.of(NOTHING_TO_SPEAK)
    return tuple(pieces)


def _action_voice(
    name: str | None, voice: VoiceChoice, known: Sequence[Voice], aliases: Mapping[str, str] | None
) -> VoiceChoice | None:
    """The voice for actions, in the language of the text; None where it is not offered."""
    try:
        return choose_voice(name or "", voice.language or None, known, aliases) if name else None
    except CallboardError:
        return None
