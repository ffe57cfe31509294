"""How sound is cut into segments, and where a worker that takes over goes on."""

import pytest

from callboard_contracts.speech import MAX_SEGMENT_BYTES, AudioSegment, SegmentInfo, SpeechEnd
from callboard_tts.domain.segments import PieceCutter, Progress, progress_of

pytestmark = pytest.mark.unit


def test_long_piece_is_cut_into_bounded_segments() -> None:
    cutter = PieceCutter(3)
    pcm = bytes(MAX_SEGMENT_BYTES * 2 + 10)
    segments = cutter.feed(pcm) + cutter.finish(b"xy")
    assert [len(segment.pcm) for segment in segments] == [MAX_SEGMENT_BYTES, MAX_SEGMENT_BYTES, 10, 2]
    assert [segment.offset_bytes for segment in segments] == [0, MAX_SEGMENT_BYTES, 2 * MAX_SEGMENT_BYTES, len(pcm)]
    assert [segment.piece_done for segment in segments] == [False, False, False, True]


def test_resumed_piece_leaves_out_what_was_sent() -> None:
    cutter = PieceCutter(0, skip_bytes=5)
    segments = cutter.feed(b"abcd") + cutter.feed(b"efgh") + cutter.finish(b"ij")
    assert [(segment.offset_bytes, segment.pcm) for segment in segments] == [(5, b"fgh"), (8, b"ij")]


def test_text_of_a_piece_stands_in_its_first_segment_alone() -> None:
    cutter = PieceCutter(0, text="Hello.")
    assert [segment.text for segment in cutter.feed(b"abcd") + cutter.finish(b"ij")] == ["Hello.", ""]
    (only,) = PieceCutter(0, text="Hello.").finish(b"ab")
    assert (only.text, only.piece_done) == ("Hello.", True)
    resumed = PieceCutter(0, skip_bytes=2, text="Hello.")
    assert [segment.text for segment in resumed.finish(b"abcd")] == [""]


def test_piece_that_came_out_shorter_than_before_still_ends() -> None:
    cutter = PieceCutter(0, skip_bytes=100)
    assert cutter.feed(b"abcd") == []
    (last,) = cutter.finish(b"")
    assert last.piece_done
    assert last.pcm == b""


def info(piece: int, offset: int, *, done: bool = False, attempt: int = 1, end: SpeechEnd | None = None) -> SegmentInfo:
    return SegmentInfo(attempt=attempt, piece=piece, offset_bytes=offset, piece_done=done, end=end)


def published(*segments: tuple[int, SegmentInfo, int]) -> list[AudioSegment]:
    return [AudioSegment(n, info, bytes(length)) for n, info, length in segments]


def test_nothing_published_means_the_beginning() -> None:
    assert progress_of([]) == Progress()


def test_progress_goes_on_inside_a_piece() -> None:
    progress = progress_of(published((0, info(0, 0, done=True), 1000), (1, info(1, 0), 600), (2, info(1, 600), 200)))
    assert progress == Progress(next_n=3, piece=1, offset_bytes=800, sent_bytes=1800)
    assert progress.audio_ms == 37


def test_progress_goes_on_with_the_next_piece() -> None:
    assert progress_of(published((0, info(0, 0, done=True), 96))) == Progress(
        next_n=1, piece=1, offset_bytes=0, sent_bytes=96
    )


def test_segment_written_by_two_attempts_counts_once() -> None:
    segments = [(0, info(0, 0), 100), (1, info(0, 100), 100), (1, info(0, 100, attempt=2), 100)]
    assert progress_of(published(*segments)) == Progress(next_n=2, piece=0, offset_bytes=200, sent_bytes=200)


def test_newest_attempt_counts_where_two_wrote_on_side_by_side() -> None:
    older = [(n, info(0, 100 * n), 100) for n in range(4)]
    newer = [(n, info(0, 100 + 50 * (n - 1), attempt=2), 50) for n in range(1, 3)]
    progress = progress_of(published(*older, *newer))
    assert progress == Progress(next_n=3, piece=0, offset_bytes=200, sent_bytes=200)


def test_end_is_found() -> None:
    end = SpeechEnd(reason="stop", audio_ms=2)
    assert progress_of(published((0, info(0, 0, done=True), 96), (1, info(0, 0, end=end), 0))).end == end


def test_first_segment_of_a_piece_has_its_text() -> None:
    cutter = PieceCutter(3, text="Grüße.")
    pcm = bytes(MAX_SEGMENT_BYTES + 2)
    assert [segment.text for segment in cutter.feed(pcm) + cutter.finish(b"ab")] == ["Grüße.", "", ""]
    assert [segment.text for segment in PieceCutter(3, skip_bytes=2, text="Grüße.").finish(pcm)] == [""]
