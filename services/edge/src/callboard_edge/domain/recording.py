"""What was said in a room, put in order from what the bus has kept of it."""

import hmac
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import Room, secret_digest
from callboard_contracts.speech import BYTES_PER_MS, UtteranceStart
from callboard_edge.domain.ports import RoomAudioSource
from callboard_edge.domain.reorder import SpeechReorderBuffer
from callboard_edge.domain.room_playout import RoomEvent


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a recording."""

    name: str
    number: int
    speaker: str


@dataclass(frozen=True, slots=True)
class Sound:
    """A stretch of a recording, in the order in which it is heard; `text` is what the piece that begins here says."""

    utterance: Utterance
    pcm: bytes
    text: str = ""


@dataclass(frozen=True, slots=True)
class Cue:
    """What is said from one time of a recording to another."""

    begin_ms: int
    end_ms: int
    speaker: str
    text: str


class Recording:
    """The utterances of one room that may be heard by whoever asks, with a pause between them."""

    def __init__(self, source: RoomAudioSource, room: str, utterances: Sequence[Utterance], pause_s: float) -> None:
        self.utterances = utterances
        self._source = source
        self._room = room
        self._pause = bytes(int(pause_s * 1000) * BYTES_PER_MS)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Everybody who speaks, in the order in which they begin."""
        return tuple(dict.fromkeys(one.speaker for one in self.utterances if one.speaker))

    async def sounds(self) -> AsyncGenerator[Sound]:
        """The sound from the beginning to the end; raises CallboardError (`bus_unavailable`)."""
        before: Utterance | None = None
        for utterance in self.utterances:
            order = SpeechReorderBuffer()
            async with aclosing(self._source.recorded(self._room, utterance.name)) as batches:
                async for segments in batches:
                    for segment in order.feed(segments):
                        if not segment.pcm:
                            continue
                        if before not in (None, utterance):
                            yield Sound(utterance, self._pause)
                        before = utterance
                        yield Sound(utterance, segment.pcm, segment.info.text)

    async def cues(self, texts: Mapping[int, str]) -> list[Cue]:
        """The dialogue with times; `texts` are what is known of utterances, by number, whose sound has no text."""
        cues: list[Cue] = []
        at_bytes = 0
        of: Utterance | None = None
        async with aclosing(self.sounds()) as sounds:
            async for sound in sounds:
                begin_ms = at_bytes // BYTES_PER_MS
                at_bytes += len(sound.pcm)
                if sound.pcm is self._pause:
                    continue
                end_ms = at_bytes // BYTES_PER_MS
                if of is sound.utterance and not sound.text:
                    cues[-1] = Cue(cues[-1].begin_ms, end_ms, cues[-1].speaker, cues[-1].text)
                    continue
                of = sound.utterance
                text = sound.text or texts.get(of.number, "")
                cues.append(Cue(begin_ms, end_ms, of.speaker, text))
        return cues


def allowed(starts: Iterable[RoomEvent], room: Room | None, secret: str | None) -> list[Utterance]:
    """The utterances that may be heard by one who has this secret, in the order in which they are heard.

    Raises:
        CallboardError: `room_secret_required`, or `not_found` when nothing is recorded.
    """
    if room is not None and not room.admits(secret):
        raise _secret_required()
    given = secret_digest(secret) if secret is not None else ""
    found: list[tuple[int, Utterance]] = []
    claimed, rounds = False, 0
    names: set[str] = set()
    numbers: set[int] = set()
    for event in starts:
        start = event.content
        if not isinstance(start, UtteranceStart) or event.utterance in names:
            continue
        names.add(event.utterance)
        if start.number in numbers:
            # The room ended and was opened anew, and counts from the beginning.
            numbers.clear()
            rounds += 1
        numbers.add(start.number)
        if start.secret_digest is not None and not hmac.compare_digest(start.secret_digest, given):
            claimed = True
            continue
        found.append((rounds, Utterance(event.utterance, start.number, start.speaker)))
    if not found:
        raise _secret_required() if claimed else CallboardError(ErrorCode.NOT_FOUND, "Nothing of it is recorded.")
    return [utterance for _, utterance in sorted(found, key=lambda entry: (entry[0], entry[1].number))]


def texts_of(room: Room | None) -> dict[int, str]:
    """The replies that a room remembers, by the number of their turn."""
    if room is None:
        return {}
    numbers = {turn.id: turn.number for turn in room.ended}
    said = [one for one in room.messages if one.role == "assistant" and one.turn in numbers]
    return {numbers[message.turn]: message.text for message in said}


def _secret_required() -> CallboardError:
    return CallboardError(ErrorCode.ROOM_SECRET_REQUIRED, "The room is claimed, and its secret is missing or wrong.")
