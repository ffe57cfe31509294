"""Keeps samples whole where PCM arrives cut at any byte."""

from callboard_contracts.speech import BYTES_PER_SAMPLE


class SampleAligner:
    """Gives back whole samples and keeps the byte that is left over for the next call."""

    def __init__(self) -> None:
        self._rest = b""

    def whole(self, pcm: bytes) -> bytes:
        """The samples that are complete with this PCM."""
        if self._rest:
            pcm = self._rest + pcm
        odd = len(pcm) % BYTES_PER_SAMPLE
        self._rest = pcm[len(pcm) - odd :]
        return pcm[:-odd] if odd else pcm
