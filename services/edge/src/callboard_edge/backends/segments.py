"""Reads segments of speech as they stand on the bus."""

import logging

from callboard_contracts import headers
from callboard_contracts.speech import AudioSegment, SegmentInfo

log = logging.getLogger(__name__)


def read_segment(subject: str, found: dict[str, str] | None, pcm: bytes) -> AudioSegment | None:
    """A segment by its message; None, and a line in the log, for what is none."""
    try:
        info = SegmentInfo.model_validate_json((found or {}).get(headers.SEGMENT, ""))
        return AudioSegment(int(subject.rpartition(".")[2]), info, pcm)
    except ValueError:
        log.warning("segment_malformed")
        return None
