"""Aligns PCM that is cut at any byte to whole samples."""

from callboard_contracts.speech import BYTES_PER_SAMPLE


class SampleAligner:
    """Returns whole samples and keeps an odd byte for the next call."""

    def __init__(self) -> None:
        self._rest = b""

    def align(self, pcm: bytes) -> bytes:
        """Returns the samples that this PCM completes."""
        if self._rest:
            pcm = self._rest + pcm
        odd = len(pcm) % BYTES_PER_SAMPLE
        self._rest = pcm[len(pcm) - odd :]
        return pcm[:-odd] if odd else pcm
