"""What listeners of a room hear, by the clock alone."""

from collections.abc import Sequence

import numpy as np
import pytest

from callboard_contracts.speech import AudioSegment, SegmentInfo, SpeechEnd, UtteranceStart
from callboard_edge.domain.room_playout import (
    BYTES_PER_S,
    GAP_TIMEOUT_S,
    LOW_BYTES,
    STALL_TIMEOUT_S,
    RoomEvent,
    RoomPlayout,
    Speaking,
    WantedSegments,
)
from tests.support.room_speech import Message, Sound, sounds, spoken, tone, utterance_name

pytestmark = pytest.mark.unit

T0 = 1000.0
TICK_S = 0.024
PAUSE_S = 0.4
ROOMY_BYTES = 60 * BYTES_PER_S
FAR = 1e12


def event(message: Message, at: float) -> RoomEvent:
    """What a message is to a playout; it never expires."""
    content = message.content
    if isinstance(content, UtteranceStart):
        content = content.model_copy(update={"expires_at": FAR})
    return RoomEvent(message.utterance, at, content)


def segments_of(messages: Sequence[Message]) -> list[AudioSegment]:
    """The segments of an utterance."""
    return [message.content for message in messages if isinstance(message.content, AudioSegment)]


def announced(number: int, expires_at: float = FAR, speaker: str = "Frog") -> RoomEvent:
    """That an utterance comes."""
    start = UtteranceStart(number=number, speaker=speaker, expires_at=expires_at)
    return RoomEvent(utterance_name(number), T0, start)


def segment(n: int, pcm: bytes = b"", *, attempt: int = 1, offset_s: float = 0.0) -> AudioSegment:
    """A segment of an utterance's one piece; without sound, its end."""
    end = None if pcm else SpeechEnd(reason="stop")
    info = SegmentInfo(attempt=attempt, piece=0 if pcm else 1, offset_bytes=int(offset_s * BYTES_PER_S), end=end)
    return AudioSegment(n, info, pcm)


class Room:
    """A playout whose clock a test moves; what was heard is kept."""

    def __init__(self, max_buffered_bytes: int = ROOMY_BYTES) -> None:
        self.playout = RoomPlayout(PAUSE_S, max_buffered_bytes)
        self.now = T0
        self.heard = b""

    def take(self, *messages: Message) -> None:
        """Brings messages."""
        for message in messages:
            self.playout.take(event(message, self.now))

    def bring(self, number: int, *segments: AudioSegment) -> None:
        """Brings segments of an utterance."""
        for one in segments:
            self.playout.take(RoomEvent(utterance_name(number), self.now, one))

    def run(self, seconds: float) -> None:
        """Lets time pass, tick by tick."""
        for _ in range(round(seconds / TICK_S)):
            self.heard += self.playout.read(round(TICK_S * BYTES_PER_S), self.now)
            self.now += TICK_S

    @property
    def samples(self) -> "np.ndarray[tuple[int], np.dtype[np.int16]]":
        """What was heard."""
        return np.frombuffer(self.heard, "<i2")


def test_utterances_are_heard_in_order_with_a_pause_between() -> None:
    room = Room()
    first, second = spoken(1, 1.0, 400), spoken(2, 0.5, 800)
    room.take(first[0], second[0], *second[1:], *first[1:])
    room.run(2.4)
    # Sample by sample: the sound itself, exactly the pause, the next sound, and silence.
    pause = bytes(int(PAUSE_S * BYTES_PER_S))
    expected = tone(1.0, 400) + pause + tone(0.5, 800)
    assert room.heard[: len(expected)] == expected
    assert not any(room.heard[len(expected) :])


def test_utterance_that_comes_after_the_pause_is_heard_at_once() -> None:
    room = Room()
    room.take(*spoken(1, 0.24, 400, segment_s=0.24))
    room.run(1.2)
    room.take(*spoken(2, 0.24, 800, segment_s=0.24))
    room.run(0.48)
    assert sounds(room.samples, [400, 800]) == [Sound(400, 0.0, 0.24), Sound(800, 1.2, 1.44)]


def test_who_speaks_is_known_while_he_is_heard() -> None:
    room = Room()
    room.take(*spoken(1, 0.48, 400, "Frog", segment_s=0.24), *spoken(2, 0.48, 800, "Toad", segment_s=0.24))
    assert (room.playout.speaking, room.playout.idle) == (None, True)
    room.run(0.24)
    assert room.playout.speaking == Speaking(1, "Frog")
    room.run(0.36)
    assert (room.playout.speaking, room.playout.idle) == (None, False)
    room.run(0.48)
    assert room.playout.speaking == Speaking(2, "Toad")
    room.run(1.2)
    assert (room.playout.speaking, room.playout.idle) == (None, True)


def test_underrun_is_silence_until_the_next_segment() -> None:
    room = Room()
    first, *segments = spoken(1, 0.48, 400, segment_s=0.24)
    room.take(first, segments[0])
    room.run(0.6)
    room.take(*segments[1:])
    room.run(0.6)
    assert sounds(room.samples, [400]) == [Sound(400, 0.0, 0.24), Sound(400, 0.6, 0.84)]
    assert room.playout.underruns == 1
    # The rest of the sound is whole.
    begin = round(0.6 * BYTES_PER_S)
    assert room.heard[begin : begin + round(0.24 * BYTES_PER_S)] == tone(0.24, 400, 0.24)


def test_silent_utterance_is_left_out_when_it_expires() -> None:
    room = Room()
    room.playout.take(announced(1, expires_at=T0 + 1.2))
    room.take(*spoken(2, 0.24, 800, segment_s=0.24))
    room.run(2.4)
    assert sounds(room.samples, [800]) == [Sound(800, 1.2, 1.44)]


def test_utterance_that_ended_without_a_sound_takes_no_time() -> None:
    room = Room()
    room.playout.take(announced(1))
    room.bring(1, segment(0))
    room.take(*spoken(2, 0.24, 800, segment_s=0.24))
    room.run(0.48)
    assert sounds(room.samples, [800]) == [Sound(800, 0.0, 0.24)]


def test_utterance_that_stalls_is_given_up() -> None:
    room = Room()
    room.playout.take(announced(1))
    room.bring(1, segment(0, tone(0.24, 400)))
    room.take(*spoken(2, 0.24, 800, segment_s=0.24))
    room.run(STALL_TIMEOUT_S + 1.2)
    assert [found.frequency_hz for found in sounds(room.samples, [400, 800])] == [400, 800]
    assert sounds(room.samples, [400, 800])[1].begin_s == pytest.approx(0.24 + STALL_TIMEOUT_S + PAUSE_S, abs=0.03)


def test_newer_attempt_goes_on_where_the_older_one_was_heard() -> None:
    room = Room()
    room.playout.take(announced(1))
    room.bring(1, *(segment(n, tone(0.24, 400, 0.24 * n), offset_s=0.24 * n) for n in range(2)))
    room.run(0.24)
    # The second worker repeats the second segment, cut elsewhere, and goes on.
    room.bring(1, segment(1, tone(0.48, 400, 0.24), attempt=2, offset_s=0.24), segment(2, attempt=2))
    room.run(1.2)
    assert room.heard[: round(0.72 * BYTES_PER_S)] == tone(0.72, 400)
    assert not any(room.heard[round(0.72 * BYTES_PER_S) :])


def test_utterance_that_is_heard_is_not_interrupted_by_an_earlier_one() -> None:
    room = Room()
    room.take(*spoken(2, 0.48, 800, segment_s=0.24))
    room.run(0.24)
    room.take(*spoken(1, 0.24, 400, segment_s=0.24), *spoken(3, 0.24, 1200, segment_s=0.24))
    room.run(2.4)
    assert [found.frequency_hz for found in sounds(room.samples, [400, 800, 1200])] == [800, 400, 1200]


def test_heard_utterance_is_never_heard_again() -> None:
    room = Room()
    said = spoken(1, 0.24, 400, segment_s=0.24)
    room.take(*said)
    room.run(1.2)
    room.take(*said)
    room.run(1.2)
    assert len(sounds(room.samples, [400])) == 1
    assert not room.playout.starts_lost


def test_half_a_sample_does_not_shift_the_next_utterance() -> None:
    room = Room()
    room.playout.take(announced(1))
    room.bring(1, segment(0, tone(0.24, 400) + b"\x01"), segment(1))
    room.take(*spoken(2, 0.24, 800, segment_s=0.24))
    room.run(1.2)
    begin = round((0.24 + PAUSE_S) * BYTES_PER_S)
    assert room.heard[begin : begin + round(0.24 * BYTES_PER_S)] == tone(0.24, 800)


class TestWhatIsReadFromTheBus:
    def test_sound_over_the_limit_is_left_there_until_its_time_comes(self) -> None:
        room = Room(max_buffered_bytes=2 * BYTES_PER_S)
        said = spoken(1, 12.0, 400)
        room.take(*said)
        assert room.playout.buffered_bytes <= 2 * BYTES_PER_S
        heard_s = 0
        while heard_s < 15:
            wanted = room.playout.wanted(room.now)
            if wanted is not None:
                assert wanted.utterance == utterance_name(1)
                batch = segments_of(said)[wanted.from_n : wanted.from_n + 4]
                room.playout.take_read(wanted, batch, room.now)
            assert room.playout.buffered_bytes <= 2 * BYTES_PER_S + LOW_BYTES
            room.run(0.48)
            heard_s += 0.48
        assert sounds(room.samples, [400]) == [Sound(400, 0.0, 12.0)]

    def test_gap_is_asked_for_and_filled_without_a_seam(self) -> None:
        room = Room()
        said = spoken(1, 1.0, 400, segment_s=0.25)
        room.take(said[0], said[1], said[3], said[4], said[5])
        assert room.playout.wanted(room.now) == WantedSegments(utterance_name(1), 1)
        room.playout.take_read(WantedSegments(utterance_name(1), 1), segments_of(said)[1:], room.now)
        room.run(1.2)
        assert room.heard[:BYTES_PER_S] == tone(1.0, 400)
        assert room.playout.wanted(room.now) is None

    def test_segment_that_the_bus_lost_is_passed_over_after_a_while(self) -> None:
        room = Room()
        said = spoken(1, 1.0, 400, segment_s=0.25)
        room.take(said[0], said[1], said[4], said[5])
        rest = segments_of(said[4:])
        room.run(1.2)
        room.playout.take_read(WantedSegments(utterance_name(1), 1), rest, room.now)
        room.run(GAP_TIMEOUT_S)
        assert len(sounds(room.samples, [400])) == 1
        room.playout.take_read(WantedSegments(utterance_name(1), 1), rest, room.now)
        room.run(1.2)
        assert [round(found.seconds, 2) for found in sounds(room.samples, [400])] == [0.25, 0.25]

    def test_silent_utterance_is_looked_for_less_and_less_often(self) -> None:
        room = Room()
        room.playout.take(announced(1))
        asked: list[float] = []
        for _ in range(round(31 / TICK_S)):
            room.run(TICK_S)
            wanted = room.playout.wanted(room.now)
            if wanted is not None:
                asked.append(round(room.now - T0))
                room.playout.take_read(wanted, (), room.now)
        assert asked == [2, 6, 14, 22, 30]

    def test_after_a_lost_connection_announcements_and_utterances_are_read_again(self) -> None:
        room = Room()
        room.take(spoken(1, 1.0, 400)[0])
        room.playout.mark_lost()
        assert room.playout.starts_lost
        assert room.playout.wanted(room.now) == WantedSegments(utterance_name(1), 0)
        room.playout.take_read(WantedSegments(utterance_name(1), 0), (), room.now)
        room.playout.take_starts(())
        assert (room.playout.starts_lost, room.playout.wanted(room.now)) == (False, None)

    def test_utterance_whose_announcement_was_missed_is_read_whole(self) -> None:
        room = Room()
        first, *segments = spoken(1, 1.0, 400)
        room.take(segments[0])
        assert room.playout.starts_lost
        room.take(first)
        room.playout.take_starts(())
        assert room.playout.wanted(room.now) == WantedSegments(utterance_name(1), 0)

    def test_utterance_without_an_announcement_is_asked_for_once(self) -> None:
        room = Room()
        _first, *segments = spoken(1, 1.0, 400)
        room.take(segments[0])
        room.playout.take_starts(())
        room.take(*segments[1:])
        assert not room.playout.starts_lost


class TestOneWhoComesLate:
    def test_hears_from_now_what_others_hear(self) -> None:
        arrivals = [
            (T0, spoken(1, 1.0, 400)),
            (T0 + 0.3, spoken(2, 2.0, 800)),
            (T0 + 4.0, spoken(3, 2.0, 1200)),
        ]
        early = Room()
        late = RoomPlayout(PAUSE_S, ROOMY_BYTES)
        left = list(arrivals)
        while early.now < T0 + 4.5:
            while left and left[0][0] <= early.now:
                messages = left.pop(0)[1]
                early.take(*messages)
                late.play_until(early.now)
                for message in messages:
                    late.take(event(message, early.now))
            early.run(TICK_S)
        late.play_until(early.now)
        before = len(early.heard)
        heard = late.read(BYTES_PER_S, early.now)
        early.run(1.008)
        assert late.speaking == Speaking(3, "Frog")
        # Both play the third utterance; they may differ by a tick, since one heard of it between two of the other's.
        matches = [shift for shift in range(-2400, 2402, 2) if _same(early.heard, heard, before + shift)]
        assert matches

    def test_gives_up_what_does_not_fit_and_reads_it_when_its_time_comes(self) -> None:
        said = spoken(1, 10.0, 400)
        playout = RoomPlayout(PAUSE_S, ROOMY_BYTES)
        playout.play_until(T0)
        for message in said:
            playout.take(event(message, T0))
        playout.play_until(T0 + 1.25)
        playout.limit(2 * BYTES_PER_S)
        assert playout.buffered_bytes <= 2 * BYTES_PER_S
        wanted = playout.wanted(T0 + 1.25)
        assert wanted is not None
        playout.take_read(wanted, segments_of(said)[wanted.from_n :], T0 + 1.25)
        assert playout.read(round(8.75 * BYTES_PER_S), T0 + 1.25) == tone(8.75, 400, 1.25)


def _same(one: bytes, other: bytes, begin: int) -> bool:
    part = other[: BYTES_PER_S // 2]
    return one[begin : begin + len(part)] == part
